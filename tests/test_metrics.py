"""Metrics against hand values, other libraries, and identities of ensembles."""

import itertools
import math

import pytest
import sklearn.metrics
import torch
import torchmetrics.classification as tm

from sbtutor import metrics

SCORES = [metrics.accuracy, metrics.nll, metrics.brier, metrics.ece]
M, N, C = 4, 300, 5


def random(seed: int = 0, dtype: torch.dtype = torch.float64):
    """Logits (M, N, C), from sure to unsure, and labels that they often get right."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(C, (N,), generator=generator)
    logits = torch.randn(M, N, C, generator=generator, dtype=dtype)
    logits[:, torch.arange(N), labels] += 1
    return logits * torch.linspace(0.1, 5, N, dtype=dtype)[:, None], labels


PROBS = torch.tensor(
    [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.5, 0.25, 0.25]], dtype=torch.float64
)
LABELS = torch.tensor([0, 0, 2])


def test_accuracy_counts_right_votes():
    assert metrics.accuracy(PROBS, LABELS) == pytest.approx(1 / 3)


def test_accuracy_of_equal_probabilities_takes_the_lowest_class():
    probs = torch.tensor([[0.4, 0.4, 0.2]])
    assert metrics.accuracy(probs, torch.tensor([0])) == 1
    assert metrics.accuracy(probs, torch.tensor([1])) == 0


def test_nll_is_the_mean_of_minus_logs():
    expected = -(math.log(0.7) + math.log(0.3) + math.log(0.25)) / 3
    assert metrics.nll(PROBS, LABELS) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("dtype", "cost"), [(torch.float32, 87.3365), (torch.float64, 708.3964)]
)
def test_nll_of_an_impossible_truth_is_large_but_finite(dtype, cost):
    """-log of the least normal number: 126 ln 2 and 1022 ln 2."""
    certain = torch.tensor([[1.0, 0.0]], dtype=dtype)
    assert metrics.nll(certain, torch.tensor([1])) == pytest.approx(cost, rel=1e-5)


def test_brier_sums_over_classes():
    expected = (0.3**2 + 0.2**2 + 0.1**2) + (0.7**2 + 0.6**2 + 0.1**2)
    expected += 0.5**2 + 0.25**2 + 0.75**2
    assert metrics.brier(PROBS, LABELS) == pytest.approx(expected / 3, rel=1e-12)


def test_brier_spans_0_to_2():
    certain = torch.eye(3)
    labels = torch.arange(3)
    assert metrics.brier(certain, labels) == 0
    assert metrics.brier(certain, labels.roll(1)) == 2


def test_reliability_by_hand():
    """Confidences 0.7, 0.6, 0.5 in (0.4, 0.6] twice and (0.6, 0.8] once."""
    groups = metrics.reliability(PROBS, LABELS, bins=5)
    nan = math.nan
    assert groups.count.tolist() == [0, 0, 2, 1, 0]
    assert groups.accuracy.tolist() == pytest.approx([nan, nan, 0, 1, nan], nan_ok=True)
    assert groups.confidence.tolist() == pytest.approx(
        [nan, nan, 0.55, 0.7, nan], nan_ok=True
    )


@pytest.mark.parametrize("bins", [2, 3, 5, 10, 15])
def test_bins_are_closed_on_the_right(bins):
    """A confidence of exactly b / bins lies in the bin that ends there."""
    ends = [b / bins for b in range(1, bins + 1) if b / bins >= 0.5]
    probs = torch.tensor([[p, 1 - p] for p in ends], dtype=torch.float64)
    labels = torch.zeros(len(ends), dtype=torch.long)
    count = metrics.reliability(probs, labels, bins).count.tolist()
    assert count == [0] * (bins - len(ends)) + [1] * len(ends)


def test_ece_by_hand():
    """Gaps of 0.55 in a bin of two and 0.3 in a bin of one."""
    expected = (2 * 0.55 + 0.3) / 3
    assert metrics.ece(PROBS, LABELS, bins=5) == pytest.approx(expected, rel=1e-12)


def test_ece_of_one_bin_is_confidence_against_accuracy():
    logits, labels = random()
    probs = logits[0].softmax(-1)
    gap = metrics.accuracy(probs, labels) - probs.max(-1).values.mean()
    torch.testing.assert_close(metrics.ece(probs, labels, bins=1), gap.abs())


def test_calibrated_predictions_have_no_calibration_error():
    """Of 20 samples with confidence 0.75, 15 are right."""
    probs = torch.tensor([[0.75, 0.25]], dtype=torch.float64).expand(20, 2)
    labels = (torch.arange(20) >= 15).long()
    assert metrics.ece(probs, labels) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_torchmetrics(seed):
    logits, labels = random(seed, torch.float32)
    probs = logits.softmax(-1).mean(0)
    accuracy = tm.MulticlassAccuracy(C, average="micro")
    calibration = tm.MulticlassCalibrationError(C, n_bins=15, norm="l1")
    torch.testing.assert_close(metrics.accuracy(probs, labels), accuracy(probs, labels))
    torch.testing.assert_close(metrics.ece(probs, labels), calibration(probs, labels))


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_learn(seed):
    logits, labels = random(seed)
    probs = metrics.ensemble_probs(logits)
    onehot = torch.eye(C).double()[labels]
    squares = [
        sklearn.metrics.mean_squared_error(onehot[:, c], probs[:, c]) for c in range(C)
    ]
    log_loss = sklearn.metrics.log_loss(labels, probs, labels=list(range(C)))
    accuracy = sklearn.metrics.accuracy_score(labels, probs.argmax(-1))
    assert metrics.nll(probs, labels) == pytest.approx(log_loss, rel=1e-9)
    assert metrics.brier(probs, labels) == pytest.approx(sum(squares), rel=1e-12)
    assert metrics.accuracy(probs, labels) == pytest.approx(accuracy, rel=1e-12)


def test_brier_ambiguity_identity():
    """Mean Brier of the members = Brier of their mean + spread around it."""
    logits, labels = random()
    members, mean = logits.softmax(-1), metrics.ensemble_probs(logits)
    own = torch.stack([metrics.brier(probs, labels) for probs in members]).mean()
    spread = (members - mean).square().sum(-1).mean()
    torch.testing.assert_close(own, metrics.brier(mean, labels) + spread)


@pytest.mark.parametrize("average", ["probs", "logits"])
@pytest.mark.parametrize("seed", range(3))
def test_jensen_an_ensemble_has_no_more_nll_than_its_mean_member(seed, average):
    """-log is convex, and so is log-sum-exp: both averages gain."""
    logits, labels = random(seed)
    own = torch.stack([metrics.nll(p, labels) for p in logits.softmax(-1)]).mean()
    assert metrics.nll(metrics.ensemble_probs(logits, average), labels) < own


def test_ensemble_probs_by_hand():
    """Odds of 9:1 and 1:1. Mean of probabilities 0.7; geometric mean of odds 3:1."""
    logits = torch.tensor([[[math.log(9), 0.0]], [[0.0, 0.0]]], dtype=torch.float64)
    by_probs = metrics.ensemble_probs(logits)
    by_logits = metrics.ensemble_probs(logits, average="logits")
    assert by_probs[0].tolist() == pytest.approx([0.7, 0.3])
    assert by_logits[0].tolist() == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("average", ["probs", "logits"])
def test_one_member_or_equal_members_change_nothing(average):
    member = random()[0][:1]
    for members in (member, member.expand(3, -1, -1)):
        probs = metrics.ensemble_probs(members, average)
        torch.testing.assert_close(probs, member[0].softmax(-1))


@pytest.mark.parametrize("metric", SCORES)
def test_invariant_to_order_of_members_and_names_of_classes(metric):
    logits, labels = random()
    rename = torch.randperm(C, generator=torch.Generator().manual_seed(1))
    renamed = torch.empty_like(logits)
    renamed[..., rename] = logits.flip(0)
    expected = metric(metrics.ensemble_probs(logits), labels)
    actual = metric(metrics.ensemble_probs(renamed), rename[labels])
    torch.testing.assert_close(actual, expected)


def pairs_won(in_scores, out_scores):
    won = [
        (i > o) + 0.5 * (i == o)
        for i, o in itertools.product(in_scores.tolist(), out_scores.tolist())
    ]
    return sum(won) / len(won)


def scores(seed: int, levels: int):
    """In- and out-of-distribution scores with many ties."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.randint(1, levels + 1, (57,), generator=generator).double()
    return inside, torch.randint(levels, (83,), generator=generator).double()


@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_auroc_counts_pairs(levels):
    inside, outside = scores(0, levels)
    truth = torch.cat([torch.ones(57), torch.zeros(83)])
    both = torch.cat([inside, outside])
    actual = metrics.auroc(inside, outside)
    assert actual == pytest.approx(pairs_won(inside, outside), rel=1e-14)
    assert actual == pytest.approx(sklearn.metrics.roc_auc_score(truth, both))
    # torchmetrics takes probabilities; dividing by a power of two keeps all ties
    other = tm.BinaryAUROC()((both / 1024).float(), truth.long())
    assert actual == pytest.approx(float(other), rel=1e-6)


def test_auroc_depends_on_order_only_and_flips_with_the_sides():
    inside, outside = scores(1, 20)
    area = metrics.auroc(inside, outside)
    assert metrics.auroc(inside.exp(), outside.exp()) == area
    assert metrics.auroc(outside, inside) == pytest.approx(1 - float(area), rel=1e-14)
    assert metrics.auroc(inside, inside) == 0.5


def test_auroc_and_fpr95_are_perfect_where_the_scores_do_not_overlap():
    low, high = torch.arange(50.0), torch.arange(50.0, 90.0)
    assert metrics.auroc(high, low) == 1
    assert metrics.auroc(low, high) == 0
    assert metrics.fpr95(high, low) == 0
    assert metrics.fpr95(low, high) == 1


def test_auroc_in_half_precision_does_not_overflow():
    """400 x 400 pairs are more than float16 can count."""
    half = torch.arange(400).half()
    assert metrics.auroc(half, half) == 0.5


def test_fpr95_by_hand():
    """The threshold 2 accepts 19 of 20, and of 2.5, 2, 1, 0 the first two."""
    inside = torch.arange(1.0, 21.0)
    outside = torch.tensor([2.5, 2.0, 1.0, 0.0])
    assert metrics.fpr95(inside, outside) == 0.5


@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_fpr95_is_the_least_false_rate_on_the_roc_curve(levels):
    inside, outside = scores(2, levels)
    truth = torch.cat([torch.ones(57), torch.zeros(83)])
    false_rate, true_rate, _ = sklearn.metrics.roc_curve(
        truth, torch.cat([inside, outside]), drop_intermediate=False
    )
    expected = false_rate[true_rate >= 0.95].min()
    assert metrics.fpr95(inside, outside) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_have_the_type_of_the_input(dtype):
    logits, labels = random(dtype=dtype)
    probs = metrics.ensemble_probs(logits)
    confidence = probs.max(-1).values
    results = [metric(probs, labels) for metric in SCORES]
    results += metrics.reliability(probs, labels)[:2]
    results += [metrics.auroc(confidence, confidence[:50])]
    results += [metrics.fpr95(confidence, confidence[:50])]
    assert {result.dtype for result in (probs, *results)} == {dtype}


def test_float32_agrees_with_float64():
    logits, labels = random()
    exact = metrics.ensemble_probs(logits)
    for metric in SCORES:
        torch.testing.assert_close(
            metric(exact.float(), labels.int()), metric(exact, labels).float()
        )


def test_nll_and_brier_have_their_analytic_gradients():
    """d nll / d logits = (p - onehot) / N, and gradcheck for both."""
    logits, labels = random()
    logits = logits[0, :7].requires_grad_()
    probs, labels = logits.softmax(-1), labels[:7]
    (gradient,) = torch.autograd.grad(metrics.nll(probs, labels), logits)
    onehot = torch.eye(C).double()[labels]
    torch.testing.assert_close(gradient, (probs.detach() - onehot) / 7)
    for metric in (metrics.nll, metrics.brier):
        torch.autograd.gradcheck(lambda x, m=metric: m(x.softmax(-1), labels), logits)


BAD_INPUT = {
    r"probs must be \(N, C\), got \(3, 2, 4\); an ensemble's are ensemble_probs": (
        torch.rand(3, 2, 4),
        torch.tensor([0, 1]),
    ),
    r"probs must be \(N, C\), got \(4,\)$": (torch.rand(4), torch.tensor([0])),
    r"probs are empty, got shape \(0, 4\)": (torch.rand(0, 4), torch.zeros(0).long()),
    r"labels must be \(3,\), one for each row of probs, got \(2,\)": (
        PROBS,
        LABELS[:2],
    ),
    r"got \(3, 3\); from one-hot rows write labels.argmax\(-1\)": (
        PROBS,
        torch.eye(3).long(),
    ),
    r"labels must be class indices, got torch.float32; write labels.long": (
        PROBS,
        LABELS.float(),
    ),
    r"label 3 is outside \[0, 3\), the 3 classes of probs": (
        PROBS,
        torch.tensor([0, 3, 1]),
    ),
    r"label -1 is outside \[0, 3\)": (PROBS, torch.tensor([0, -1, 1])),
    r"row 1 of probs is no distribution: it sums to 3.* write logits.softmax\(-1\)": (
        torch.tensor([[0.5, 0.5], [4.0, -1.0]]),
        torch.tensor([0, 1]),
    ),
    r"row 0 .* sums to 1 and its least entry is -1;": (
        torch.tensor([[2.0, -1.0]]),
        torch.tensor([0]),
    ),
    r"row 0 of probs is no distribution: it sums to nan": (
        torch.tensor([[math.nan, 1.0]]),
        torch.tensor([0]),
    ),
}


@pytest.mark.parametrize("metric", [*SCORES, metrics.reliability])
@pytest.mark.parametrize("message", BAD_INPUT)
@pytest.mark.usefixtures("unchecked")
def test_bad_probs_and_labels_are_named(metric, message):
    with pytest.raises(ValueError, match=message):
        metric(*BAD_INPUT[message])


@pytest.mark.parametrize("metric", [metrics.ece, metrics.reliability])
def test_bins_must_be_positive(metric):
    with pytest.raises(ValueError, match="bins must be at least 1, got 0; 15 is usual"):
        metric(PROBS, LABELS, bins=0)


@pytest.mark.parametrize(
    ("logits", "average", "message"),
    [
        (PROBS, "probs", r"got \(3, 3\); for one member write logits\[None\]"),
        (PROBS[0], "probs", r"logits must be \(M, N, C\), got \(3,\)$"),
        (torch.rand(0, 2, 3), "probs", r"logits are empty, got shape \(0, 2, 3\)"),
        (PROBS[None], "votes", "unknown average 'votes': choose one of probs, logits"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_logits_and_average_are_named(logits, average, message):
    with pytest.raises(ValueError, match=message):
        metrics.ensemble_probs(logits, average)


@pytest.mark.parametrize("metric", [metrics.auroc, metrics.fpr95])
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (PROBS, r"must be one score a sample, \(N,\), got \(3, 3\); from probs"),
        (torch.rand(0), "is empty: a rate needs at least one sample"),
        (torch.tensor([0.1, math.nan]), "holds NaN, which has no rank"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_scores_are_named(metric, scores, message):
    with pytest.raises(ValueError, match=f"in_scores {message}"):
        metric(scores, torch.rand(3))
    with pytest.raises(ValueError, match=f"out_scores {message}"):
        metric(torch.rand(3), scores)


def test_by_size_takes_each_subset_once():
    """Of 1, 2, 4: singles, the pairs (1.5, 2.5, 3), and all (7/3); then their worst."""
    rows = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    means = metrics.by_size(rows, lambda part: part.mean())
    torch.testing.assert_close(means, torch.full((3,), 7 / 3, dtype=torch.float64))
    largest = metrics.by_size(rows, lambda part: part.max())
    expected = torch.tensor([7 / 3, (2 + 4 + 4) / 3, 4], dtype=torch.float64)
    torch.testing.assert_close(largest, expected)


def test_by_size_of_brier_scores_follows_the_ambiguity():
    """Exact over all subsets: score(M) = mean member - (1 - 1/M) V."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 50, 3, generator=generator, dtype=torch.float64)
    probs, labels = logits.softmax(-1), torch.arange(50) % 3
    found = metrics.by_size(probs, lambda p: metrics.brier(p.mean(0), labels))
    gain = found[0] - found[1]
    for size in (2, 3, 4):
        expected = found[0] - 2 * (1 - 1 / size) * gain
        torch.testing.assert_close(found[size - 1], expected)
