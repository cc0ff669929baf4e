"""One gradient for all methods, against hand-written steps in float64."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sbtutor import models, train
from sbtutor.config import ModelConfig
from sbtutor.gradient import balanced_gradient

B = 12
RHO = 0.3
WITH_NORM = [
    (name, norm) for name in ("small_cnn", "resnet8") for norm in ("batch", "group")
]
NETWORKS = [("mlp", "batch"), ("lenet", "batch"), *WITH_NORM]


def case(name="small_cnn", norm="batch", seed=0, count=B):
    """A member in train mode, images and labels, all float64."""
    model = ModelConfig(name=name, width=4, norm=norm)
    member = models.build(model, (2, 8, 8), 3, seed).double().train()
    generator = torch.Generator().manual_seed(seed)
    for buffer in member.buffers():  # statistics that an update must change
        if buffer.is_floating_point() and buffer.dim() == 1:
            buffer += 0.1 * torch.rand(
                buffer.shape, generator=generator, dtype=buffer.dtype
            )
    images = torch.rand(count, 2, 8, 8, generator=generator, dtype=torch.float64)
    return member, images, torch.randint(3, (count,), generator=generator)


def mask(*chosen, count=B):
    return torch.zeros(count, dtype=torch.bool).index_fill(
        0, torch.tensor(chosen), True
    )


MIXED = mask(0, 3, 4, 7, 11)


def plain(member, images, labels, weight=1.0):
    """Gradient of weight * mean cross-entropy at the present weights, by backward()."""
    member.zero_grad()
    (weight * F.cross_entropy(member(images), labels)).backward()
    return {name: p.grad.clone() for name, p in member.named_parameters()}


def sam_step(member, images, labels, rho, weight=1.0):
    """Two passes; the second, at w + e, does not count for running statistics."""
    slope = plain(member, images, labels)
    length = torch.cat([g.flatten() for g in slope.values()]).norm()
    statistics = {name: b.clone() for name, b in member.named_buffers()}
    with torch.no_grad():
        for name, p in member.named_parameters():
            p += rho * slope[name] / length
    result = plain(member, images, labels, weight)
    with torch.no_grad():
        for name, p in member.named_parameters():
            p -= rho * slope[name] / length
        for name, b in member.named_buffers():
            b.copy_(statistics[name])
    return result


def three_passes(member, images, labels, chosen, rho):
    """Paper-facts B3 word by word, on a copy. Gives gradient and buffers."""
    member = copy.deepcopy(member)
    share = chosen.double().mean().item()
    normal = plain(member, images[~chosen], labels[~chosen], 1 - share)
    sam = sam_step(member, images[chosen], labels[chosen], rho, share)
    return {k: normal[k] + sam[k] for k in normal}, dict(member.named_buffers())


def buffers_of(member):
    return {name: b.clone() for name, b in member.named_buffers()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-10, atol=1e-12)


def test_train_offers_balanced_gradient_under_its_fixed_name():
    assert train.balanced_gradient is balanced_gradient


@pytest.mark.parametrize(("name", "norm"), NETWORKS)
def test_all_false_is_sgd(name, norm):
    member, images, labels = case(name, norm)
    reference = copy.deepcopy(member)
    ours = balanced_gradient(member, images, labels, torch.zeros(B).bool(), RHO)
    assert_same(ours, plain(reference, images, labels))
    assert_same(buffers_of(member), buffers_of(reference))


@pytest.mark.parametrize(("name", "norm"), NETWORKS)
def test_all_true_is_sam(name, norm):
    member, images, labels = case(name, norm)
    reference = copy.deepcopy(member)
    ours = balanced_gradient(member, images, labels, torch.ones(B).bool(), RHO)
    assert_same(ours, sam_step(reference, images, labels, RHO))
    assert_same(buffers_of(member), buffers_of(reference))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "norm"), NETWORKS)
def test_a_mixed_mask_is_the_papers_three_passes(name, norm, training):
    member, images, labels = case(name, norm)
    member.train(training)
    gradient, buffers = three_passes(member, images, labels, MIXED, RHO)
    assert_same(balanced_gradient(member, images, labels, MIXED, RHO), gradient)
    assert_same(buffers_of(member), buffers)


@pytest.mark.parametrize(
    ("name", "norm"),
    [c for c in NETWORKS if c[0] in ("mlp", "lenet") or c[1] != "batch"],
)
def test_rho_zero_is_sgd_for_any_mask_without_batch_norm(name, norm):
    member, images, labels = case(name, norm)
    whole = plain(copy.deepcopy(member), images, labels)
    for chosen in (MIXED, ~MIXED, mask(2)):
        assert_same(balanced_gradient(member, images, labels, chosen, 0.0), whole)


def test_rho_zero_with_batch_norm_is_sgd_on_two_batches():
    member, images, labels = case()
    gradient, _ = three_passes(member, images, labels, MIXED, 0.0)
    assert_same(balanced_gradient(member, images, labels, MIXED, 0.0), gradient)


def test_statistics_follow_the_normal_sub_batch_then_the_sam_sub_batch():
    """r <- 0.9 (0.9 r + 0.1 m_N) + 0.1 m_S, for the first layer's mean m."""
    member, images, labels = case()
    before = member.norm1.running_mean.clone()
    with torch.no_grad():
        inputs = member.conv1(member.normalize(images))
    mean_n, mean_s = (inputs[m].mean((0, 2, 3)) for m in (~MIXED, MIXED))
    balanced_gradient(member, images, labels, MIXED, RHO)
    expected = 0.9 * (0.9 * before + 0.1 * mean_n) + 0.1 * mean_s
    torch.testing.assert_close(member.norm1.running_mean, expected)
    assert member.norm1.num_batches_tracked == 2


def test_the_perturbed_pass_leaves_no_trace_in_the_statistics():
    """They come out the same for each radius, and for SAM as for SGD."""
    after = []
    for rho, sam in ((0.0, False), (0.01, True), (2.0, True)):
        member, images, labels = case("resnet8")
        balanced_gradient(member, images, labels, torch.full((B,), sam), rho)
        after.append(buffers_of(member))
    assert_same(after[0], after[1])
    assert_same(after[0], after[2])
    assert all(m.track_running_stats for m in member.modules() if hasattr(m, "eps"))


@pytest.mark.parametrize("chosen", [torch.zeros(B).bool(), torch.ones(B).bool(), MIXED])
def test_eval_mode_leaves_the_statistics_alone(chosen):
    member, images, labels = case("resnet8")
    before = buffers_of(member.eval())
    balanced_gradient(member, images, labels, chosen, RHO)
    assert_same(buffers_of(member), before)


@pytest.mark.parametrize(("name", "norm"), NETWORKS)
def test_weights_and_grad_fields_stay_as_they_are(name, norm):
    member, images, labels = case(name, norm)
    before = {k: p.detach().clone() for k, p in member.named_parameters()}
    balanced_gradient(member, images, labels, MIXED, RHO)
    assert all(torch.equal(p, before[k]) for k, p in member.named_parameters())
    assert all(p.grad is None and p.requires_grad for p in member.parameters())
    assert member.training


@pytest.mark.parametrize("name", ["small_cnn", "resnet8"])
@pytest.mark.parametrize(
    ("lone", "joined"),
    [(mask(5), torch.zeros(B).bool()), (~mask(5), torch.ones(B).bool())],
)
def test_a_lone_sample_joins_the_others_under_batch_norm(name, lone, joined):
    member, images, labels = case(name)
    reference = copy.deepcopy(member)
    assert_same(
        balanced_gradient(member, images, labels, lone, RHO),
        balanced_gradient(reference, images, labels, joined, RHO),
    )
    assert_same(buffers_of(member), buffers_of(reference))


@pytest.mark.parametrize("lone", [mask(5), ~mask(5)])
@pytest.mark.parametrize(
    ("name", "norm", "training"),
    [
        ("mlp", "batch", True),
        ("small_cnn", "group", True),
        ("resnet8", "group", True),
        ("small_cnn", "batch", False),
    ],
)
def test_a_lone_sample_stays_alone_where_nothing_forbids_it(name, norm, training, lone):
    member, images, labels = case(name, norm)
    member.train(training)
    gradient, _ = three_passes(member, images, labels, lone, RHO)
    assert_same(balanced_gradient(member, images, labels, lone, RHO), gradient)


def test_two_samples_of_which_one_is_sams_are_one_sgd_batch_under_batch_norm():
    member, images, labels = case(count=2)
    reference = plain(copy.deepcopy(member), images, labels)
    chosen = mask(0, count=2)
    assert_same(balanced_gradient(member, images, labels, chosen, RHO), reference)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_all_true_is_sam_for_a_batch_of_one(norm):
    """A 3x3 convolution's channel has many values even in one image."""
    member, images, labels = case(norm=norm, count=1)
    reference = sam_step(copy.deepcopy(member), images, labels, RHO)
    ours = balanced_gradient(member, images, labels, torch.ones(1).bool(), RHO)
    assert_same(ours, reference)


def test_the_order_of_the_samples_does_not_matter():
    member, images, labels = case()
    order = torch.randperm(B, generator=torch.Generator().manual_seed(1))
    a = balanced_gradient(member, images, labels, MIXED, RHO)
    b = balanced_gradient(member, images[order], labels[order], MIXED[order], RHO)
    assert_same(a, b)


def test_normal_samples_do_not_move_the_perturbation():
    """e comes from the SAM sub-batch alone: g is affine in the normal part."""
    member, images, labels = case(norm="group")
    other = images.clone()
    other[~MIXED] = 1 - other[~MIXED]
    a, b = (balanced_gradient(member, x, labels, MIXED, RHO) for x in (images, other))
    share = (~MIXED).double().mean().item()
    normal = [plain(member, x[~MIXED], labels[~MIXED], share) for x in (images, other)]
    change = {k: normal[1][k] - normal[0][k] for k in a}
    assert_same({k: b[k] - a[k] for k in a}, change)


def test_frozen_parameters_take_no_part():
    """Neither in the result nor in the norm of SAM's gradient."""
    member, images, labels = case("mlp")
    member.hidden1.requires_grad_(False)
    tail = nn.Sequential(*list(member)[3:])  # from the first ReLU on
    features = member.hidden1(member.flatten(member.normalize(images)))
    reference = sam_step(copy.deepcopy(tail), features.detach(), labels, RHO)
    ours = balanced_gradient(member, images, labels, torch.ones(B).bool(), RHO)
    assert [k.split(".")[0] for k in ours] == ["hidden2", "hidden2", "head", "head"]
    assert_same(dict(enumerate(ours.values())), dict(enumerate(reference.values())))


@pytest.mark.parametrize("rho", [-0.1, float("nan")])
def test_a_negative_radius_is_refused(rho):
    with pytest.raises(ValueError, match=f"cannot be negative, got rho={rho}"):
        balanced_gradient(*case(), MIXED, rho)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(B - 1).bool(), r"\(12,\); got torch.bool of shape \(11,\)"),
        (torch.zeros(B), r"must be bool .* got torch.float32 of shape \(12,\)"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(unchecked, wrong, message):
    with pytest.raises(ValueError, match=message):
        balanced_gradient(*case(), wrong, RHO)


def test_an_empty_batch_is_refused():
    network = models.build(ModelConfig(name="mlp", width=4), (1, 4, 4), 3, seed=0)
    nothing = torch.zeros(0, dtype=torch.long)
    with pytest.raises(ValueError, match="at least one sample, got an empty batch"):
        balanced_gradient(
            network, torch.zeros(0, 1, 4, 4), nothing, nothing.bool(), 0.1
        )
