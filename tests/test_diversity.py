"""Diversity against hand values, slow references, and identities of ensembles."""

import itertools
import math

import pytest
import torch

from sbtutor import diversity, metrics

M, N, C = 4, 60, 5


def random(seed: int = 0, members: int = M, skill: float = 1.0):
    """Logits (M, N, C) and labels; higher skill, fewer errors."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(C, (N,), generator=generator)
    logits = torch.randn(members, N, C, generator=generator, dtype=torch.float64)
    logits[:, torch.arange(N), labels] += skill
    return logits, labels


def voting(votes, strength: float = 1.0) -> torch.Tensor:
    """Logits (M, N, 3) of members that vote as in the M rows."""
    return strength * torch.eye(3, dtype=torch.float64)[torch.tensor(votes)]


def vote_eir(logits, labels):
    return diversity.ensemble_improvement_rate(logits, labels, by="vote")


WITHOUT_LABELS = [
    diversity.disagreement,
    diversity.logit_variance,
    diversity.prob_variance,
    diversity.kl_divergence,
    diversity.js_divergence,
]
WITH_LABELS = [
    diversity.disagreement_error_ratio,
    diversity.normalized_disagreement,
    diversity.ensemble_improvement_rate,
    vote_eir,
]

# Three members on four samples; 2, 1 and 1 errors.
VOTES = [[0, 1, 2, 0], [0, 1, 1, 0], [0, 0, 2, 1]]
LABELS = torch.tensor([0, 1, 2, 1])


def test_pairwise_disagreement_by_hand():
    """Members 0 and 1 differ on one sample, 0 and 2 on two, 1 and 2 on three."""
    expected = torch.tensor([[0, 1, 2], [1, 0, 3], [2, 3, 0]]) / 4
    actual = diversity.pairwise_disagreement(voting(VOTES))
    torch.testing.assert_close(actual, expected.double(), rtol=0, atol=0)


def test_disagreement_averages_distinct_pairs():
    assert diversity.disagreement(voting(VOTES)) == pytest.approx(6 / 4 / 3)


def test_pairwise_disagreement_equals_a_loop():
    logits, _ = random(members=6)
    votes = logits.argmax(-1)
    slow = [[(a != b).double().mean() for b in votes] for a in votes]
    actual = diversity.pairwise_disagreement(logits)
    torch.testing.assert_close(actual, torch.tensor(slow).double())
    assert (actual.diagonal() == 0).all()


def test_der_by_hand():
    """Mean disagreement 1/2; the members err on 1, 2 and 1 of 4 samples: 1/3."""
    der = diversity.disagreement_error_ratio(voting(VOTES), LABELS)
    assert der == pytest.approx(1.5)


def test_normalized_disagreement_is_der_for_an_ensemble():
    """Of two equally good members it is also Fort's d / (1 - accuracy)."""
    logits, labels = random()
    der = diversity.disagreement_error_ratio(logits, labels)
    assert diversity.normalized_disagreement(logits, labels) == der
    pair, labels = voting([[0, 1, 2, 0], [0, 0, 2, 1]]), LABELS
    fort = diversity.pairwise_disagreement(pair)[0, 1] / (1 / 4)
    assert diversity.normalized_disagreement(pair, labels) == pytest.approx(float(fort))


def test_der_spans_0_to_2_for_two_members():
    """Equal members never disagree; members that never err together reach 2."""
    same = voting([[0, 1, 2, 0]] * 2)
    assert diversity.disagreement_error_ratio(same, LABELS) == 0
    apart = voting([[1, 1, 2, 1], [0, 1, 0, 1]])
    assert diversity.disagreement_error_ratio(apart, LABELS) == pytest.approx(2)


def test_der_does_not_depend_on_the_number_of_members():
    """With equal errors, the mean DER over all k-subsets is the DER of the whole."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(30, dtype=torch.long)
    wrong = 1 + torch.randint(2, (5, 30), generator=generator)
    wrong[:, 12:] = 0  # each member errs on 12 samples of its own
    votes = torch.stack([w[torch.randperm(30, generator=generator)] for w in wrong])
    logits = voting(votes.tolist())
    whole = diversity.disagreement_error_ratio(logits, labels)
    for size in (2, 3, 4):
        part = [
            diversity.disagreement_error_ratio(logits[list(members)], labels)
            for members in itertools.combinations(range(5), size)
        ]
        torch.testing.assert_close(torch.stack(part).mean(), whole)


def test_eir_by_hand():
    """Majorities 0, 1, 2, 0: of a mean error of 1/3, 1/4 remains."""
    assert vote_eir(voting(VOTES), LABELS) == pytest.approx(1 / 4)


def test_eir_of_probabilities_is_that_of_the_mean():
    logits, labels = random()
    own = [1 - metrics.accuracy(probs, labels) for probs in logits.softmax(-1)]
    left = 1 - metrics.accuracy(metrics.ensemble_probs(logits), labels)
    mean = torch.stack(own).mean()
    eir = diversity.ensemble_improvement_rate(logits, labels)
    torch.testing.assert_close(eir, (mean - left) / mean)


def test_a_sure_minority_wins_by_probabilities_and_loses_by_votes():
    """One of four is right and sure. EIR 1 by probabilities, -1/3 by vote; DER 2/3.

    So EIR <= DER is a theorem on votes only.
    """
    logits = voting([[1], [1], [1], [0]], strength=0.1)
    logits[3] *= 100
    labels = torch.tensor([0])
    assert diversity.ensemble_improvement_rate(logits, labels) == 1
    assert vote_eir(logits, labels) == pytest.approx(-1 / 3)
    der = diversity.disagreement_error_ratio(logits, labels)
    assert der == pytest.approx(2 / 3)


@pytest.mark.parametrize("right", [0, 1])
def test_a_tied_vote_goes_to_the_larger_mean_probability(right):
    """One vote each for the classes 0 and 1; the member voting 1 is surer."""
    logits = voting([[0], [1]])
    logits[1] *= 2
    eir = vote_eir(logits, torch.tensor([right]))
    assert eir == (1 if right == 1 else -1)


def test_a_tied_vote_never_goes_to_a_class_with_fewer_votes():
    """Class 2 is everyone's second choice and has the largest mean probability."""
    logits = torch.tensor([[[5, 0, 4.9]], [[0, 5, 4.9]]], dtype=torch.float64)
    assert metrics.ensemble_probs(logits).argmax() == 2
    assert vote_eir(logits, torch.tensor([2])) == 0


@pytest.mark.parametrize("members", [2, 3, 4, 7])
@pytest.mark.parametrize("skill", [-1.0, 0.0, 1.0, 2.0])
def test_eir_by_vote_is_at_most_der(members, skill):
    """Theisen et al. 2023, Theorem 2; for the competent and for all others too."""
    for seed in range(10):
        logits, labels = random(seed, members, skill)
        der = diversity.disagreement_error_ratio(logits, labels)
        assert vote_eir(logits, labels) <= der + 1e-12


def binary_ensembles(samples: int):
    """All ways in which 0 to 3 of three members can be right, competent ones only.

    Competent (Theisen et al.): however small the share t, no more samples have a
    share of wrong members in [1/2, 1 - t] than in [t, 1/2).
    """
    for counts in itertools.product(range(samples + 1), repeat=4):
        none, one, two, three = counts
        competent = two >= one and three + two >= one + none
        if sum(counts) == samples and competent and three < samples:
            right = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
            votes = (torch.arange(3)[:, None] >= right).long()
            yield torch.eye(2, dtype=torch.float64)[votes]


def test_eir_of_competent_binary_ensembles_lies_in_theisens_bounds():
    """DER' >= EIR >= DER' - 1 and EIR >= 0, where DER' = (M - 1) / M DER.

    Their two members are drawn independently, so i = j counts.
    """
    labels = torch.zeros(6, dtype=torch.long)
    for logits in binary_ensembles(samples=6):
        eir = float(vote_eir(logits, labels))
        der = float(diversity.disagreement_error_ratio(logits, labels)) * 2 / 3
        assert max(0, der - 1) - 1e-12 <= eir <= der + 1e-12


def test_logit_variance_is_the_unbiased_variance():
    """M / (M - 1) (mean ||f||^2 - ||mean f||^2), written as in the official code."""
    logits, _ = random()
    total = 0.0
    for n in range(N):
        squares = sum(float(logits[m, n] @ logits[m, n]) for m in range(M)) / M
        mean = sum(logits[m, n] for m in range(M)) / M
        total += squares - float(mean @ mean)
    expected = M / (M - 1) * total / N
    assert diversity.logit_variance(logits) == pytest.approx(expected, rel=1e-12)


def test_prob_variance_is_the_unbiased_variance():
    logits, _ = random()
    expected = logits.softmax(-1).var(0, correction=1).sum(-1).mean()
    torch.testing.assert_close(diversity.prob_variance(logits), expected)


def test_logit_variance_grows_with_the_square_of_the_scale_and_ignores_shifts():
    logits, _ = random()
    shift = torch.randn(N, C, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(
        diversity.logit_variance(3 * logits + shift),
        9 * diversity.logit_variance(logits),
    )


def test_prob_variance_of_certain_members_is_their_disagreement():
    certain = voting(VOTES, strength=1000)
    torch.testing.assert_close(
        diversity.prob_variance(certain), diversity.disagreement(certain)
    )


def test_prob_variance_is_the_ambiguity_of_the_brier_score():
    """(M - 1) / M of it is mean Brier of the members less Brier of their mean."""
    logits, labels = random()
    own = [metrics.brier(probs, labels) for probs in logits.softmax(-1)]
    gain = torch.stack(own).mean()
    gain -= metrics.brier(metrics.ensemble_probs(logits), labels)
    spread = diversity.prob_variance(logits) * (M - 1) / M
    torch.testing.assert_close(spread, gain)


def kl(p, q):
    """KL(p || q) in nats, mean over samples; 0 log 0 = 0."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1).mean()


def test_kl_divergence_equals_a_loop_over_ordered_pairs():
    probs = random()[0].softmax(-1)
    pairs = [kl(p, q) for p, q in itertools.permutations(probs, 2)]
    actual = diversity.kl_divergence(random()[0])
    torch.testing.assert_close(actual, torch.stack(pairs).mean())


def test_kl_divergence_by_hand():
    """Odds 3:1 against 1:3: both directions are 1/2 log 3."""
    logits = torch.tensor([[[math.log(3), 0.0]], [[0.0, math.log(3)]]]).double()
    assert diversity.kl_divergence(logits) == pytest.approx(math.log(3) / 2, rel=1e-6)


def entropy(p):
    return -torch.xlogy(p, p).sum(-1).mean()


def test_js_divergence_is_entropy_of_the_mean_less_mean_entropy():
    logits, _ = random()
    probs = logits.softmax(-1)
    expected = entropy(probs.mean(0)) - entropy(probs)
    torch.testing.assert_close(diversity.js_divergence(logits), expected)


def test_js_divergence_is_the_mean_kl_to_the_mean():
    probs = random()[0].softmax(-1)
    expected = torch.stack([kl(p, probs.mean(0)) for p in probs]).mean()
    torch.testing.assert_close(diversity.js_divergence(random()[0]), expected)


@pytest.mark.parametrize("seed", range(5))
def test_js_divergence_lies_between_0_and_log_m(seed):
    logits, _ = random(seed)
    for scale in (0.01, 1, 100):
        assert 0 <= diversity.js_divergence(scale * logits) <= math.log(M) + 1e-12


def test_js_divergence_reaches_log_m_when_no_two_members_share_a_class():
    apart = voting([[0], [1], [2]], strength=2000)
    assert diversity.js_divergence(apart) == pytest.approx(math.log(3), rel=1e-12)


def test_large_logits_keep_kl_and_js_finite_in_float32():
    """Where a float32 softmax is 0: KL is the gap of 400, JS is log 2."""
    logits = torch.tensor([[[400.0, 0.0]], [[0.0, 400.0]]])
    assert diversity.kl_divergence(logits) == pytest.approx(400)
    assert diversity.js_divergence(logits) == pytest.approx(math.log(2))


@pytest.mark.parametrize("measure", [*WITHOUT_LABELS, *WITH_LABELS])
def test_equal_members_have_no_diversity(measure):
    logits, labels = random()
    same = logits[:1].expand(3, -1, -1)
    args = (same, labels) if measure in WITH_LABELS else (same,)
    assert measure(*args) == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("measure", [*WITHOUT_LABELS, *WITH_LABELS])
def test_invariant_to_order_of_members_and_samples_and_names_of_classes(measure):
    logits, labels = random(skill=0.5)
    rename = torch.randperm(C, generator=torch.Generator().manual_seed(1))
    renamed = torch.empty_like(logits)
    renamed[..., rename] = logits.flip(0, 1)
    if measure in WITH_LABELS:
        expected = measure(logits, labels)
        actual = measure(renamed, rename[labels].flip(0))
    else:
        expected, actual = measure(logits), measure(renamed)
    assert expected != 0
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    "measure",
    [
        diversity.disagreement,
        diversity.prob_variance,
        diversity.kl_divergence,
        diversity.js_divergence,
    ],
)
def test_a_constant_added_to_all_logits_of_a_member_changes_nothing(measure):
    """All but the variance of logits see probabilities only."""
    logits, _ = random()
    shift = torch.randn(M, N, 1, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(measure(logits + shift), measure(logits))


def test_one_member_has_no_pairs():
    """Means over pairs are NaN; gains over the one member are 0."""
    logits, labels = random(members=1)
    assert diversity.pairwise_disagreement(logits).tolist() == [[0]]
    for measure in WITHOUT_LABELS[:-1]:
        assert measure(logits).isnan()
    assert diversity.disagreement_error_ratio(logits, labels).isnan()
    assert diversity.normalized_disagreement(logits, labels).isnan()
    assert diversity.js_divergence(logits) == pytest.approx(0, abs=1e-15)
    assert diversity.ensemble_improvement_rate(logits, labels) == 0
    assert vote_eir(logits, labels) == 0


@pytest.mark.parametrize("measure", WITH_LABELS)
def test_per_error_is_nan_when_no_member_errs(measure):
    perfect = voting([LABELS.tolist()] * 3)
    assert measure(perfect, LABELS).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_have_the_type_of_the_input(dtype):
    logits, labels = random()
    logits = logits.to(dtype)
    results = [measure(logits) for measure in WITHOUT_LABELS]
    results += [measure(logits, labels) for measure in WITH_LABELS]
    results += [diversity.pairwise_disagreement(logits)]
    assert {result.dtype for result in results} == {dtype}


@pytest.mark.parametrize(
    "measure",
    [
        diversity.logit_variance,
        diversity.prob_variance,
        diversity.kl_divergence,
        diversity.js_divergence,
    ],
)
def test_smooth_measures_have_gradients(measure):
    logits = random()[0][:, :3].requires_grad_()
    assert torch.autograd.gradcheck(measure, logits)


BAD_LOGITS = {
    r"got \(2, 3\); one member's are logits\[None\]": torch.rand(2, 3),
    r"logits must be \(M, N, C\), got \(3,\)$": torch.rand(3),
    r"logits are empty, got shape \(3, 0, 2\)": torch.rand(3, 0, 2),
    "logits must be finite, got NaN or infinity: a member has diverged": torch.tensor(
        [[[0.0, math.nan]]]
    ),
    "got NaN or infinity": torch.tensor([[[0.0, math.inf]]]),
}


@pytest.mark.parametrize(
    "measure", [*WITHOUT_LABELS, *WITH_LABELS, diversity.pairwise_disagreement]
)
@pytest.mark.parametrize("message", BAD_LOGITS)
@pytest.mark.usefixtures("unchecked")
def test_bad_logits_are_named(measure, message):
    labels = (torch.tensor([0]),) if measure in WITH_LABELS else ()
    with pytest.raises(ValueError, match=message):
        measure(BAD_LOGITS[message], *labels)


@pytest.mark.parametrize("measure", WITH_LABELS)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:2], r"labels must be \(4,\), one for each sample of logits, got \(2,"),
        (torch.eye(4).long(), r"got \(4, 4\); from one-hot rows write labels.argmax"),
        (LABELS.double(), "must be class indices, got torch.float64; write labels.lo"),
        (LABELS + 1, r"label 3 is outside \[0, 3\), the 3 classes of logits"),
        (LABELS - 1, r"label -1 is outside \[0, 3\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_labels_are_named(measure, labels, message):
    with pytest.raises(ValueError, match=message):
        measure(voting(VOTES), labels)


@pytest.mark.usefixtures("unchecked")
def test_unknown_by_is_named():
    with pytest.raises(ValueError, match="unknown by 'mean': choose one of probs, vot"):
        diversity.ensemble_improvement_rate(voting(VOTES), LABELS, by="mean")
