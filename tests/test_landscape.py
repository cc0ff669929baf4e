"""The landscape against geometry, one-by-one evaluation and simulated predictors."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sbtutor import data, diversity, landscape, metrics, models, stack
from sbtutor.config import ModelConfig
from sbtutor.predict import predict

LIMITS = [(0.71, 10, 0.5), (0.71, 10, 0.1), (0.9, 3, 0.6), (0.8, 2, 0.7), (1.0, 5, 0.9)]


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def split(samples=23, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (samples, 1, 8, 8), generator=generator)
    return data.Split(images.to(torch.uint8), torch.arange(samples) % 3, tuple("abc"))


def members(norm="group", count=3, dtype=torch.float64):
    config = ModelConfig(name="small_cnn", width=4, norm=norm)
    nets = [models.build(config, (1, 8, 8), 3, m) for m in range(count)]
    return [net.to(dtype).eval() for net in nets]


def test_a_survey_is_what_each_network_does_alone():
    """More points than are evaluated together, in float64."""
    nets, images = members(count=18), split()
    logits = predict(nets, images).logits
    found = landscape.survey(nets[0], stack.points_of(nets), images, logits[:2])
    probs = logits.softmax(-1)
    for s in range(18):
        nll = metrics.nll(probs[s], images.labels)
        torch.testing.assert_close(found.loss[s], nll)
        assert found.accuracy[s] == metrics.accuracy(probs[s], images.labels)
    expected = 1 - diversity.pairwise_disagreement(logits)[:, :2]
    torch.testing.assert_close(found.similarity, expected)
    assert found.similarity[0, 0] == found.similarity[1, 1] == 1
    assert ((found.similarity > 0) & (found.similarity < 1)).any()


def test_a_survey_refreshes_batch_norm_at_each_point():
    nets, fresh = members("batch"), split(40, seed=1)
    found = landscape.survey(nets[0], stack.points_of(nets), split(), refresh=fresh)
    for net in nets:
        torch.optim.swa_utils.update_bn([fresh.images.double() / 255], net)
    probs = predict(nets, split()).logits.softmax(-1)
    expected = torch.stack([metrics.nll(p, split().labels) for p in probs])
    torch.testing.assert_close(found.loss, expected)


def test_a_survey_without_references_has_no_similarity():
    nets = members()
    found = landscape.survey(nets[0], stack.points_of(nets), split())
    assert found.similarity.shape == (3, 0)
    assert found.loss.dtype == found.similarity.dtype == torch.float64


def overflown():
    """A linear network's points: sane, huge, beyond float32 (NaN logits)."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    points = stack.points_of([net]) * torch.tensor([[1.0], [1e30], [math.inf]])
    return net, points


def test_a_far_point_has_a_huge_or_infinite_loss_and_no_error():
    net, points = overflown()
    reference = predict([net], split()).logits
    found = landscape.survey(net, points, split(), reference)
    assert found.loss[0] < 10
    assert found.loss[1] > 1e20
    assert found.loss[2] == math.inf
    assert found.similarity[0] == 1


def test_nan_is_a_vote_for_no_class():
    """An error, and unlike every vote; even of a reference with NaN itself."""
    net, points = overflown()
    points[2] = math.nan
    reference = torch.tensor([math.nan, 1, 2]).expand(1, 23, 3)
    found = landscape.survey(net, points, split(), reference)
    assert found.loss[2] == math.inf
    assert found.accuracy[2] == 0
    assert found.similarity[2] == 0


@pytest.mark.parametrize("shape", [(1, 22, 3), (23, 3)])
@pytest.mark.usefixtures("unchecked")
def test_references_for_other_images_are_named(shape):
    nets = members()
    with pytest.raises(ValueError, match=r"references must be \(R, 23, C\).*got \("):
        landscape.survey(
            nets[0], stack.points_of(nets), split(), torch.zeros(shape).double()
        )


def test_weight_cosine_equals_torchs_pair_by_pair():
    points = random(4, 30) + 0.3
    expected = [[F.cosine_similarity(v, w, dim=0) for v in points] for w in points]
    torch.testing.assert_close(landscape.weight_cosine(points), torch.tensor(expected))


def test_weight_cosine_ignores_lengths_and_follows_signs():
    points = random(3, 30)
    scale = torch.tensor([1.0, 100.0, -1e-3]).double()
    torch.testing.assert_close(
        landscape.weight_cosine(points * scale[:, None]),
        landscape.weight_cosine(points) * scale.sign() * scale.sign()[:, None],
    )


@pytest.mark.parametrize("length", [1e-40, 1e-30, 1e30, 3e38])
def test_weight_cosine_of_tiny_and_huge_points(length):
    """Lengths whose squares leave float32; the angles of (1, 0), (3, 4), (-1, 0)."""
    points = torch.tensor([[1.0, 0], [0.6, 0.8], [-1, 0]])
    points[1] *= length
    expected = torch.tensor([[1, 0.6, -1], [0.6, 1, -0.6], [-1, -0.6, 1]])
    torch.testing.assert_close(
        landscape.weight_cosine(points), expected, rtol=0, atol=1e-4
    )


def test_weight_cosine_never_leaves_its_range():
    """Of equal points, in float32 rounding would make some cosines exceed 1."""
    for seed in range(20):
        points = random(1, 50, seed=seed).float().repeat(3, 1)
        points[2] *= -3
        assert (landscape.weight_cosine(points).abs() <= 1).all()


def test_weight_cosine_needs_two_points():
    with pytest.raises(ValueError, match="at least two points, got 1; stack the weig"):
        landscape.weight_cosine(random(1, 5))


def test_a_point_without_direction_is_named():
    points = random(3, 5)
    points[1] = 0
    with pytest.raises(ValueError, match="point 1 is all zeros and has no direction"):
        landscape.weight_cosine(points)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_point_that_is_not_finite_is_named(value):
    points = random(3, 5)
    points[1:, 2] = value
    with pytest.raises(ValueError, match="point 1 is not finite and has no direction"):
        landscape.weight_cosine(points)


def voting(votes):
    return torch.eye(3, dtype=torch.float64)[torch.tensor(votes)]


LABELS = torch.tensor([0, 1, 2, 1])


def test_normalized_disagreement_by_hand():
    """The networks differ from the reference on 1, 3 and 0 of 4, and err on 2, 2, 1."""
    reference = voting([0, 1, 2, 0])
    logits = voting([[0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 2, 0]])
    found = landscape.normalized_disagreement(reference, logits, LABELS)
    torch.testing.assert_close(found, torch.tensor([1 / 2, 3 / 2, 0]).double())


@pytest.mark.parametrize("reference", [[0, 1, 2, 1], [0, 1, 2, 0]])
def test_normalized_disagreement_is_nan_without_errors(reference):
    perfect = voting([LABELS.tolist()])
    found = landscape.normalized_disagreement(voting(reference), perfect, LABELS)
    assert found.isnan().all()


def test_normalized_disagreement_is_its_ensembles_for_two_equally_good_networks():
    pair = voting([[0, 1, 2, 0], [0, 0, 2, 1]])
    found = landscape.normalized_disagreement(pair[0], pair[1:], LABELS)
    assert found[0] == diversity.normalized_disagreement(pair, LABELS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_normalized_disagreement_is_a_ratio_of_pairwise_disagreements(dtype):
    """With reference and truth as two more networks, bit for bit."""
    logits, labels = random(41, 37, 5).to(dtype), torch.arange(37) % 5
    truth = F.one_hot(labels, 5).to(logits)
    pairs = diversity.pairwise_disagreement(torch.cat([truth[None], logits]))
    found = landscape.normalized_disagreement(logits[0], logits[1:], labels)
    assert torch.equal(found, pairs[1, 2:] / pairs[0, 2:])
    assert found.dtype == dtype


def test_normalized_disagreement_needs_no_more_memory_than_its_logits():
    """Its S networks are compared with one reference, not with one another."""
    sizes = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            sizes.append(made.numel() if isinstance(made, torch.Tensor) else 0)
            return made

    logits = random(60, 4, 3)
    with Watching():
        landscape.normalized_disagreement(logits[0], logits, LABELS)
    assert len(sizes) > 5
    assert max(sizes) <= logits.numel()


@pytest.mark.parametrize("where", ["reference", "logits"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_votes_of_diverged_networks_are_refused(where, value):
    given = {"reference": voting([0, 1, 2, 0]), "logits": voting([[0, 1, 1, 0]])}
    given[where][..., 0] = value
    with pytest.raises(ValueError, match="logits must be finite, got NaN or infinity"):
        landscape.normalized_disagreement(**given, labels=LABELS)


def test_votes_on_no_samples_are_refused():
    none = torch.zeros(2, 0, 3)
    with pytest.raises(ValueError, match=r"logits are empty, got shape \(2, 0, 3\)"):
        landscape.normalized_disagreement(none[0], none, LABELS[:0])


@pytest.mark.parametrize(
    ("reference", "labels", "message"),
    [
        (torch.zeros(3), LABELS, r"\(3,\) needs logits \(S, N, C\) and labels"),
        (voting([0, 1]), LABELS, r"= \(2, 3\) needs .*got \(1, 4, 3\) and \(4,\)"),
        (voting([0, 1, 2, 0]), LABELS[:1], r"got \(1, 4, 3\) and \(1,\)"),
        (voting([0, 1, 2, 0]), LABELS + 1, r"in \[0, 3\), .* got 1 to 3; drop other"),
        (voting([0, 1, 2, 0]), LABELS - 1, r"in \[0, 3\), .* got -1 to 1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_the_reference_is_named(reference, labels, message):
    with pytest.raises(ValueError, match=message):
        landscape.normalized_disagreement(reference, voting([[0, 1, 1, 0]]), labels)


def test_limits_of_the_paper():
    """a* = .71, C = 10: 1.678 and 0 at a = a*, a lower limit of 1.000 at a = .1."""
    upper, lower = landscape.limit_curves(0.71, 10, torch.tensor([0.71, 0.1]).double())
    assert upper.tolist() == pytest.approx([1.678, 1.0], abs=5e-4)
    assert lower.tolist() == pytest.approx([0.0, 1.0], abs=5e-4)


def drawn(accuracy, classes, samples, generator):
    """Votes, right (class 0) with this probability; wrong classes equally likely."""
    wrong = torch.randint(1, classes, (samples,), generator=generator)
    return wrong.where(torch.rand(samples, generator=generator) >= accuracy, 0)


@pytest.mark.parametrize(("best", "classes", "accuracy"), LIMITS)
def test_independent_errors_reach_the_upper_limit(best, classes, accuracy):
    generator = torch.Generator().manual_seed(0)
    reference = drawn(best, classes, 100_000, generator)
    votes = drawn(accuracy, classes, 100_000, generator)
    upper, _ = landscape.limit_curves(best, classes, torch.tensor([accuracy]).double())
    assert_share(votes != reference, upper * (1 - accuracy))


@pytest.mark.parametrize(("best", "classes", "accuracy"), LIMITS)
def test_flipped_votes_reach_the_lower_limit(best, classes, accuracy):
    """Flipped to another class with the limit's probability, they have accuracy a."""
    generator = torch.Generator().manual_seed(0)
    _, lower = landscape.limit_curves(best, classes, torch.tensor([accuracy]).double())
    share = lower * (1 - accuracy)
    reference = drawn(best, classes, 100_000, generator)
    flipped = torch.rand(100_000, generator=generator) < share
    shift = torch.randint(1, classes, (100_000,), generator=generator)
    votes = (reference + shift * flipped) % classes
    assert_share(votes == 0, torch.tensor([accuracy]))
    assert_share(votes != reference, share)


def test_the_lower_limit_is_no_bound():
    """100 votes, 80 right; a network that spoils 20 of them differs on a* - a = 0.2."""
    _, lower = landscape.limit_curves(0.8, 5, torch.tensor([0.6]).double())
    reference = voting([0] * 80 + [1] * 20)
    network = voting([[1] * 20 + [0] * 60 + [1] * 20])
    labels = torch.zeros(100).long()
    found = landscape.normalized_disagreement(reference, network, labels)
    assert found.item() == pytest.approx(0.2 / 0.4)
    assert found < lower


def assert_share(events, expected):
    """Within 4 standard errors of the expected probability."""
    p = float(expected)
    error = math.sqrt(p * (1 - p) / len(events))
    assert abs(float(events.double().mean()) - p) < 4 * error


@pytest.mark.parametrize(("best", "classes"), [(0.71, 10), (0.9, 3), (1.0, 5)])
def test_limits_enclose_each_other_and_d_is_a_share(best, classes):
    a = torch.linspace(0, 0.999, 200).double()
    upper, lower = landscape.limit_curves(best, classes, a)
    assert (lower[a > 1 / classes] <= upper[a > 1 / classes] + 1e-12).all()
    assert (lower[a >= best] == 0).all()
    assert (lower >= 0).all()
    assert (lower * (1 - a) <= 1 + 1e-12).all()


def test_limits_are_nan_without_errors():
    upper, lower = landscape.limit_curves(0.9, 10, torch.tensor([0.5, 1.0]))
    assert upper.isnan().tolist() == lower.isnan().tolist() == [False, True]
    assert upper.dtype == lower.dtype == torch.float32


@pytest.mark.usefixtures("unchecked")
def test_limits_take_a_list():
    found = landscape.limit_curves(0.71, 10, [0, 0.5])
    expected = landscape.limit_curves(0.71, 10, torch.tensor([0, 0.5]))
    assert all(map(torch.equal, found, expected))
    assert landscape.limit_curves(0.71, 10, [0])[0].item() == pytest.approx(
        0.71 + 0.29 * 8 / 9
    )


@pytest.mark.parametrize(
    ("best", "classes", "accuracies", "message"),
    [
        (0.7, 1, [0.5], "needs at least 2 classes, got 1"),
        (0.1, 10, [0.5], r"accuracy in \(1/10, 1\], got 0.1; give a trained"),
        (71.0, 10, [0.5], r"accuracy in \(1/10, 1\], got 71.0"),
        (math.nan, 10, [0.5], "got nan"),
        (0.7, 10, [0.5, 71.0], r"in \[0, 1\], got 0.5 to 71; divide percentages"),
        (0.7, 10, [-0.25, 0.5], r"in \[0, 1\], got -0.25 to 0.5"),
        (0.7, 10, [0.5, math.nan], "must be numbers, got NaN, the share of no samples"),
    ],
)
def test_impossible_limits_are_named(best, classes, accuracies, message):
    with pytest.raises(ValueError, match=message):
        landscape.limit_curves(best, classes, torch.tensor(accuracies))


def test_a_map_of_predictions_keeps_families_apart():
    """Two families of 8: each network's nearest neighbour is one of its own."""
    family = torch.arange(16) // 8
    logits = 4 * random(2, 20, 5)[family] + 0.3 * random(16, 20, 5, seed=1)
    found = landscape.prediction_map(logits, perplexity=5.0)
    distance = torch.cdist(found, found).fill_diagonal_(math.inf)
    assert torch.equal(family[distance.argmin(1)], family)
    assert found.dtype == torch.float64


def test_the_same_seed_gives_the_same_map():
    """With so many columns the principal components are drawn at random."""
    logits = random(30, 200, 10)
    found = landscape.prediction_map(logits, seed=1, perplexity=2.0)
    assert torch.equal(found, landscape.prediction_map(logits, 1, 2.0))
    assert not torch.equal(found, landscape.prediction_map(logits, 2, 2.0))


def test_a_map_sees_probabilities_only():
    logits = random(8, 10, 3)
    shifted = logits + 2.0 ** torch.arange(8)[:, None, None]
    torch.testing.assert_close(
        landscape.prediction_map(logits, perplexity=2.0),
        landscape.prediction_map(shifted, perplexity=2.0),
        rtol=1e-3,
        atol=1e-2,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_map_of_coarse_logits_is_that_of_the_same_numbers_in_float32(dtype):
    logits = random(8, 10, 3).to(dtype)
    found = landscape.prediction_map(logits, perplexity=2.0)
    assert found.dtype == dtype
    exact = landscape.prediction_map(logits.float(), perplexity=2.0)
    assert torch.equal(found, exact.to(dtype))


@pytest.mark.parametrize("perplexity", [0.0, 8.0, 30.0])
def test_a_perplexity_beyond_the_networks_is_named(perplexity):
    with pytest.raises(ValueError, match=f"networks, 8, got {perplexity}; it counts"):
        landscape.prediction_map(random(8, 10, 3), perplexity=perplexity)


@pytest.mark.parametrize(("value", "got"), [(0, "0.0"), (math.nan, "nan")])
def test_predictions_without_differences_have_no_map(value, got):
    logits = torch.full((8, 10, 3), value).double()
    with pytest.raises(ValueError, match=f"a largest difference of {got}; leave out"):
        landscape.prediction_map(logits, perplexity=2.0)
