"""The sets of paper-facts B4: by hand, in expectation, under symmetries."""

import math

import pytest
import torch

from sbtutor.sharpbalance import sam_masks

SPLITS = ("paper", "code", "code_boost", "flattest", "random", "shared")

# Three members, nine samples, k = 1/3: three picks each.
SCORES = torch.tensor(
    [
        [9.0, 8.0, 7.0, 4.0, 5.0, 6.0, 1.0, 2.0, 3.0],
        [9.0, 8.0, 4.0, 7.0, 5.0, 6.0, 2.0, 1.0, 3.0],
        [9.0, 3.0, 4.0, 8.0, 7.0, 6.0, 1.0, 2.0, 5.0],
    ]
)
# Top_3: {0 1 2}, {0 1 3}, {0 3 4}.  Bot_3: {6 7 8}, {6 7 8}, {1 6 7}.
# Nobody's Bot_3: R = 0 2 3 4 5, dealt {0 4}, {2 5}, {3}.
BY_HAND = {
    "paper": [{0, 1, 3, 4}, {0, 1, 2, 3, 4}, {0, 1, 2, 3}],
    "code": [{1, 6, 7, 8, 0, 4}, {1, 6, 7, 8, 2, 5}, {6, 7, 8, 3}],
    "code_boost": [{1, 6, 7, 8, 2, 3, 5}, {1, 6, 7, 8, 0, 3, 4}, {6, 7, 8, 0, 2, 4, 5}],
    "flattest": [{1, 6, 7, 8}, {1, 6, 7, 8}, {6, 7, 8}],
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_scores(members=3, samples=120, seed=0):
    return torch.rand(members, samples, generator=seeded(seed), dtype=torch.float64)


def sets(masks):
    return [set(row.nonzero().flatten().tolist()) for row in masks]


@pytest.mark.parametrize("split", BY_HAND)
def test_sets_by_hand(split):
    assert sets(sam_masks(SCORES, 0.34, split)) == BY_HAND[split]


def test_samples_nobody_picked_are_dealt_out_once_each():
    """With all rankings alike, code deals R; boost deals each card to M - 1."""
    scores = torch.arange(10.0).expand(3, 10)
    code, boost = (sets(sam_masks(scores, 0.3, s)) for s in ("code", "code_boost"))
    flat = {0, 1, 2}
    assert code == [flat | {3, 6, 9}, flat | {4, 7}, flat | {5, 8}]
    assert boost == [set(range(10)) - (c - flat) for c in code]


# E|SAM set| / N at M = 3, k = 1/2. Independent rankings, with u = P(picked by no
# other) = 1/4 and r = P(picked by none) = 1/8: paper and flattest 1 - u, code
# 1 - u + r / 3, boost 1 - u + 2 r / 3.
@pytest.mark.parametrize(
    ("split", "independent", "identical"),
    [
        ("paper", 0.75, 0.5),
        ("flattest", 0.75, 0.5),
        ("code", 19 / 24, 2 / 3),
        ("code_boost", 5 / 6, 5 / 6),
    ],
)
def test_expected_fractions(split, independent, identical):
    draws, samples = 400, 60
    fractions = torch.stack(
        [
            sam_masks(random_scores(3, samples, seed), 0.5, split).double().mean()
            for seed in range(draws)
        ]
    )
    error = fractions.std() / math.sqrt(draws)
    assert abs(fractions.mean() - independent) < 4 * error
    same = random_scores(1, samples).expand(3, samples)
    assert sam_masks(same, 0.5, split).double().mean() == pytest.approx(identical)


@pytest.mark.parametrize("split", SPLITS)
def test_only_the_ranking_counts(split):
    scores = random_scores()
    a, b = (sam_masks(s, 0.3, split, seeded()) for s in (scores, scores.exp() * 7))
    assert torch.equal(a, b)


@pytest.mark.parametrize("members", [2, 3, 5])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_flattest_is_paper_with_the_ranking_turned_round(members, fraction):
    scores = random_scores(members)
    turned = sam_masks(-scores, fraction, "paper")
    assert torch.equal(sam_masks(scores, fraction, "flattest"), turned)


def test_flattest_is_code_without_the_samples_that_nobody_picked():
    scores = random_scores()
    flattest, code, boost = (
        sam_masks(scores, 0.3, split) for split in ("flattest", "code", "code_boost")
    )
    assert (flattest <= code).all()
    assert torch.equal(flattest, code & boost)


@pytest.mark.parametrize("split", ["paper", "flattest"])
def test_a_members_own_scores_do_not_enter_its_set(split):
    scores, changed = random_scores(), random_scores()
    changed[1] = changed[1].flip(0)
    a, b = sam_masks(scores, 0.3, split), sam_masks(changed, 0.3, split)
    assert torch.equal(a[1], b[1])
    assert not torch.equal(a[0], b[0])


@pytest.mark.parametrize("split", ["paper", "flattest"])
def test_permuting_members_permutes_the_rows(split):
    scores, order = random_scores(4), torch.tensor([2, 0, 3, 1])
    assert torch.equal(
        sam_masks(scores[order], 0.2, split), sam_masks(scores, 0.2, split)[order]
    )


@pytest.mark.parametrize("split", ["paper", "flattest"])
def test_permuting_samples_permutes_the_columns(split):
    scores = random_scores()
    order = torch.randperm(120, generator=seeded(1))
    assert torch.equal(
        sam_masks(scores[:, order], 0.2, split), sam_masks(scores, 0.2, split)[:, order]
    )


def test_with_two_members_paper_gives_each_the_other_ones_sharpest():
    scores = random_scores(2, 50)
    top = scores >= scores.topk(10, dim=1).values[:, -1:]
    assert torch.equal(sam_masks(scores, 0.2), top.flip(0))


def test_random_sets_have_papers_sizes_member_by_member():
    scores = random_scores(3, 97)
    paper = sam_masks(scores, 0.3)
    random = sam_masks(scores, 0.3, "random", seeded())
    assert torch.equal(random.sum(1), paper.sum(1))
    assert not torch.equal(random, paper)
    assert len({tuple(row.tolist()) for row in random}) == 3


def test_the_shared_set_is_the_same_for_all_with_papers_mean_size():
    scores = random_scores(3, 97)
    shared = sam_masks(scores, 0.3, "shared", seeded())
    assert (shared == shared[0]).all()
    assert shared[0].sum() == sam_masks(scores, 0.3).sum(1).double().mean().round()


@pytest.mark.parametrize("split", ["random", "shared"])
def test_each_sample_is_as_likely_as_any_other(split):
    """P(n in S) = |S| / N, within 4.5 standard errors for each n."""
    scores, draws = random_scores(3, 20), 2000
    masks = torch.stack(
        [sam_masks(scores, 0.3, split, seeded(s)) for s in range(draws)]
    ).double()
    p = masks[0].mean(1, keepdim=True)
    error = (p * (1 - p) / draws).sqrt()
    assert ((masks.mean(0) - p).abs() < 4.5 * error).all()


def test_random_sets_of_two_members_are_independent():
    """|S_1 and S_2| is hypergeometric with mean |S_1| |S_2| / N."""
    scores, draws = random_scores(3, 40), 1000
    masks = torch.stack(
        [sam_masks(scores, 0.3, "random", seeded(s)) for s in range(draws)]
    )
    both = (masks[:, 0] & masks[:, 1]).sum(1).double()
    a, b = (masks[0, i].sum().item() for i in (0, 1))
    assert abs(both.mean() - a * b / 40) < 4 * both.std() / math.sqrt(draws)


@pytest.mark.parametrize("split", SPLITS)
def test_a_generator_decides(split):
    scores = random_scores()
    a, b, c = (sam_masks(scores, 0.3, split, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert torch.equal(a, c) == (split not in ("random", "shared"))


def test_ties_go_to_the_lower_index():
    """Constant scores: Top_k and Bot_k are both the first k N samples."""
    many = sam_masks(torch.zeros(2, 5000), 0.3)
    assert (many == (torch.arange(5000) < 1500)).all()
    equal = torch.zeros(2, 10)
    assert sets(sam_masks(equal, 0.3)) == [{0, 1, 2}] * 2
    assert sets(sam_masks(equal, 0.3, "flattest")) == [{0, 1, 2}] * 2
    first = {0, 1, 2}
    assert sets(sam_masks(equal, 0.3, "code")) == [
        first | {3, 5, 7, 9},
        first | {4, 6, 8},
    ]


@pytest.mark.parametrize(
    ("fraction", "samples"), [(0.29, 100), (0.7, 10), (0.1, 30), (0.57, 100)]
)
def test_each_member_picks_floor_k_n_samples(fraction, samples):
    """Of k N as a decimal number: 0.29 * 100 is 29, though not in floating point."""
    alike = random_scores(1, samples).expand(2, samples)
    picked = sam_masks(alike, fraction).sum(1)
    assert picked.tolist() == [round(fraction * samples)] * 2


@pytest.mark.parametrize(
    ("scores", "fraction", "split", "message"),
    [
        (SCORES, 0.3, "papre", "unknown split 'papre': choose one of paper, code"),
        (
            SCORES,
            0.0,
            "paper",
            r"in \(0, 1\), got 0.0; all samples is SAM, none is SGD",
        ),
        (SCORES, 1.0, "code", r"in \(0, 1\), got 1.0"),
        (SCORES[:1], 0.3, "paper", r"M >= 2, got shape \(1, 9\)"),
        (SCORES[0], 0.3, "paper", r"at least two members.*got shape \(9,\)"),
        (SCORES / 0, 0.3, "paper", "must be finite, got NaN or infinity.*lower lr"),
    ],
)
def test_errors(unchecked, scores, fraction, split, message):
    with pytest.raises(ValueError, match=message):
        sam_masks(scores, fraction, split)


def test_a_fraction_of_less_than_one_sample_is_refused():
    with pytest.raises(ValueError, match=r"0\.01 of 50 samples is less than one"):
        sam_masks(torch.rand(3, 50), 0.01)
