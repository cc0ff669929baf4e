"""The row of numbers of an ensemble equals direct calls of the measures."""

import math

import pytest
import torch
from torch.nn import functional as F

from sbtutor import corruptions, data, diversity, evaluate, metrics, models, sharpness
from sbtutor.config import ModelConfig
from sbtutor.predict import Predictions, predict


def split(samples=60, classes=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, 1, 8, 8), generator=generator)
    labels = torch.arange(samples) % classes
    return data.Split(images.to(torch.uint8), labels, tuple("abcdef"[:classes]))


def members(count=3):
    model = ModelConfig(name="small_cnn", width=4)
    return [models.build(model, (1, 8, 8), 3, m) for m in range(count)]


def random_predictions(members=3):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(members, 50, 4, generator=generator)
    return Predictions(logits, torch.randint(4, (50,), generator=generator))


@pytest.mark.parametrize("name", ["accuracy", "nll", "brier", "ece"])
def test_quality_is_that_of_the_mean_probabilities_and_the_members_mean(name):
    given = random_predictions()
    measure, probs = getattr(metrics, name), given.logits.softmax(-1)
    row = evaluate.predictions_row(given)
    assert row[name] == pytest.approx(float(measure(probs.mean(0), given.labels)))
    own = [float(measure(p, given.labels)) for p in probs]
    assert row[f"member_{name}"] == pytest.approx(sum(own) / 3)


def test_diversity_equals_direct_calls():
    given = random_predictions()
    logits, labels = given.logits, given.labels
    row = evaluate.predictions_row(given)
    expected = {
        "disagreement": diversity.disagreement(logits),
        "der": diversity.disagreement_error_ratio(logits, labels),
        "eir": diversity.ensemble_improvement_rate(logits, labels),
        "logit_variance": diversity.logit_variance(logits),
        "prob_variance": diversity.prob_variance(logits),
        "kl": diversity.kl_divergence(logits),
        "js": diversity.js_divergence(logits),
    }
    assert {name: row[name] for name in expected} == pytest.approx(
        {name: float(value) for name, value in expected.items()}
    )


def test_the_row_obeys_jensen_and_the_error_identities():
    """NLL and Brier of the ensemble are below the members'; DER = d / error."""
    row = evaluate.predictions_row(random_predictions())
    assert row["nll"] < row["member_nll"]
    assert row["brier"] < row["member_brier"]
    error = 1 - row["member_accuracy"]
    assert row["der"] == pytest.approx(row["disagreement"] / error)
    assert row["eir"] == pytest.approx(
        (row["accuracy"] - row["member_accuracy"]) / error, abs=1e-6
    )


def test_one_member_has_quality_but_no_diversity():
    row = evaluate.predictions_row(random_predictions(1))
    assert row["accuracy"] == row["member_accuracy"]
    assert math.isnan(row["der"])


def test_shift_row_is_the_mean_over_kinds_and_severities():
    nets, test = members(), split()
    rows = []
    for kind in evaluate.KINDS:
        for severity in evaluate.SEVERITIES:
            images = corruptions.corrupt(test.images, kind, severity)
            shifted = data.Split(images, test.labels, test.classes)
            rows.append(evaluate.predictions_row(predict(nets, shifted)))
    ours = evaluate.shift_row(nets, test)
    for name in ("accuracy", "member_nll", "der", "logit_variance"):
        mean = sum(row[name] for row in rows) / len(rows)
        # noise falls on other samples, as the split's order is another
        assert ours[name] == pytest.approx(mean, rel=0.05)
    assert ours.keys() == rows[0].keys()
    assert set(evaluate.KINDS) <= set(corruptions.KINDS)


def test_sharpness_row_is_the_members_mean_of_each_measure():
    nets, train = members(2), split()
    nets[0].train(), nets[1].eval()
    row = evaluate.sharpness_row(nets, train)
    assert (nets[0].training, nets[1].training) == (True, False)
    images = train.images.float() / 255
    rises, fishers, traces = [], [], []
    for net in nets:
        net.eval()
        loss_fn = sharpness.loss_of(net, images, train.labels)
        params = sharpness.parameters_of(net)
        rises.append(sharpness.sam_sharpness(loss_fn, params, 0.1))
        fishers.append(sharpness.fisher_trace(net, images, train.labels).mean())
        draw = torch.Generator().manual_seed(0)
        traces.append(
            sharpness.hessian_trace(loss_fn, params, evaluate.PROBES, draw)[0]
        )
    expected = {"sam_rise": rises, "fisher_trace": fishers, "hessian_trace": traces}
    for name, values in expected.items():
        mean = float(torch.stack(values).mean())
        assert row[name] == pytest.approx(mean, rel=1e-4), name


def test_measuring_leaves_the_members_as_they_are():
    nets = members()
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in nets]
    evaluate.sharpness_row(nets, split())
    evaluate.shift_row(nets, split())
    for net, old in zip(nets, before, strict=True):
        assert net.training
        assert all(torch.equal(v, old[k]) for k, v in net.state_dict().items())
        assert all(p.grad is None for p in net.parameters())


def test_sam_rise_is_at_the_same_radius_for_every_run():
    """So that runs with different rho can be compared."""
    nets, train = members(1), split()
    row = evaluate.sharpness_row(nets, train)
    net, images = nets[0].eval(), train.images.float() / 255
    loss = F.cross_entropy(net(images), train.labels)
    slopes = torch.autograd.grad(loss, list(net.parameters()))
    length = torch.cat([s.flatten() for s in slopes]).norm()
    with torch.no_grad():
        for p, s in zip(net.parameters(), slopes, strict=True):
            p += evaluate.SHARPNESS_RHO * s / length
        rise = F.cross_entropy(net(images), train.labels) - loss
    assert row["sam_rise"] == pytest.approx(float(rise), rel=1e-3)


def test_reach_equals_direct_calls_in_eval_mode():
    """Four measures a member, at the row's radii; then the mean over members."""
    nets, train = members(2), split()
    for seed, net in enumerate(nets):  # statistics unlike those of the images
        draw = torch.Generator().manual_seed(seed)
        net.train()(3 * torch.rand(20, 1, 8, 8, generator=draw))
    nets[1].eval()
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in nets]
    row = evaluate.reach_row(nets, train)
    assert (nets[0].training, nets[1].training) == (True, False)
    for net, old in zip(nets, before, strict=True):
        assert all(torch.equal(v, old[k]) for k, v in net.state_dict().items())
    images = train.images.float() / 255
    found = []
    for net in nets:
        loss_fn = sharpness.loss_of(net.eval(), images, train.labels)
        w, draw = sharpness.parameters_of(net), torch.Generator().manual_seed(0)
        found.append(
            {
                "worst_case_l2": sharpness.worst_case_sharpness(loss_fn, w, 0.25, "l2"),
                "worst_case_linf": sharpness.worst_case_sharpness(
                    loss_fn, w, 0.01, "linf"
                ),
                "average_rise": sharpness.average_sharpness(loss_fn, w, 0.1, 20, draw),
                "top_eigenvalue": sharpness.hessian_top_eigenvalue(loss_fn, w),
            }
        )
    assert list(row) == list(found[0])
    for name, value in row.items():
        mean = sum(float(one[name]) for one in found) / len(found)
        near = 1e-2 if name == "top_eigenvalue" else 1e-3
        assert value == pytest.approx(mean, rel=near), name


def test_reach_uses_500_images_whatever_the_split_holds():
    """The class-balanced 500 of seed 0, so that runs compare."""
    train = split(660)
    few = data.subset(train, 500, seed=0)
    assert evaluate.reach_row(members(1), train) == pytest.approx(
        evaluate.reach_row(members(1), few), rel=1e-3
    )
