"""Greedy selection against a slow reference, by hand, and under symmetries."""

import pytest
import torch

from sbtutor import metrics, selection
from sbtutor.selection import greedy_ensemble, greedy_path


def from_true(*rows):
    """Members by the probability of the true class, which is class 0 of two."""
    true = torch.tensor(rows, dtype=torch.float64)
    labels = torch.zeros(true.shape[1], dtype=torch.long)
    return torch.stack([true, 1 - true], dim=2), labels


def random_pool(seed, members=7, samples=12, classes=4):
    generator = torch.Generator().manual_seed(seed)
    shape = (members, samples, classes)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (samples,), generator=generator)
    return logits.softmax(-1), labels


def reference(probs, labels, size):
    """As the paper says it: try each member with the list so far, keep the best."""
    chosen, score = [], float("inf")
    while len(set(chosen)) < size:
        tried = [
            metrics.nll(torch.stack([probs[i] for i in [*chosen, j]]).mean(0), labels)
            for j in range(len(probs))
        ]
        best = min(range(len(probs)), key=lambda j: tried[j].item())
        if not tried[best] < score:
            break
        chosen, score = [*chosen, best], tried[best]
    return chosen


A, B, C = (0.90, 0.30), (0.85, 0.30), (0.40, 0.60)


def test_the_best_pair_is_not_the_two_best_members():
    """By hand: A+C has NLL .615, A+B only .669, though B alone is better than C."""
    path = greedy_path(*from_true(A, B, C), size=2)
    assert path.chosen == [0, 2]
    expected = [[0.655, 0.683, 0.714], [0.655, 0.669, 0.615]]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(path.candidates, expected, rtol=0, atol=6e-4)
    assert path.nll.tolist() == [path.candidates[0, 0], path.candidates[1, 2]]


def test_a_member_chosen_twice_weighs_twice():
    """By hand: A+A+D has NLL .605, A+D .630, A+A+A+D .616; the third never helps."""
    probs, labels = from_true((0.9, 0.9, 0.1), (0.2, 0.2, 0.9), (0.1, 0.1, 0.1))
    path = greedy_path(probs, labels, size=3)
    assert path.chosen == [0, 1, 0]
    expected = torch.tensor([0.838, 0.630, 0.605], dtype=torch.float64)
    torch.testing.assert_close(path.nll, expected, rtol=0, atol=6e-4)
    assert path.candidates[3].min().item() == pytest.approx(0.616, abs=6e-4)
    weights = selection.mixing_weights(path.chosen, 3)
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 1 / 3, 0]))


@pytest.mark.parametrize("size", [1, 2, 4, 7])
@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_slow_search_over_all_candidates(seed, size):
    probs, labels = random_pool(seed)
    assert greedy_ensemble(probs, labels, size) == reference(probs, labels, size)


def test_random_pools_show_repeats_and_early_stops():
    """So that the comparison above has met both."""
    chosen = [greedy_ensemble(*random_pool(seed), size=7) for seed in range(8)]
    assert any(len(c) > len(set(c)) for c in chosen)
    assert any(len(set(c)) < 7 for c in chosen)


@pytest.mark.parametrize("seed", range(4))
def test_the_path_falls_and_is_the_nll_of_the_mixture(seed):
    probs, labels = random_pool(seed)
    path = greedy_path(probs, labels, size=7)
    assert (path.nll.diff() < 0).all()
    mixtures = [
        selection.mixed_probs(probs.log(), path.chosen[: t + 1])
        for t in range(len(path.chosen))
    ]
    expected = torch.stack([metrics.nll(m, labels) for m in mixtures])
    torch.testing.assert_close(path.nll, expected)
    assert len(path.candidates) - len(path.chosen) == (len(set(path.chosen)) < 7)
    torch.testing.assert_close(path.candidates.min(1).values[: len(expected)], expected)


@pytest.mark.parametrize("seed", range(4))
def test_it_stops_at_size_different_members_and_smaller_sizes_begin_alike(seed):
    probs, labels = random_pool(seed, members=20, samples=60)
    full = greedy_ensemble(probs, labels, 20)
    assert len(set(full)) >= 5
    for size in range(1, 6):
        chosen = greedy_ensemble(probs, labels, size)
        assert len(set(chosen)) == size
        assert len(set(chosen[:-1])) == size - 1
        assert chosen == full[: len(chosen)]


def test_one_member_is_the_best_single_one():
    probs, labels = random_pool(0)
    single = torch.stack([metrics.nll(p, labels) for p in probs])
    assert greedy_ensemble(probs, labels, 1) == [int(single.argmin())]


def test_a_size_beyond_the_pool_takes_what_helps():
    assert greedy_ensemble(*from_true(A, B, C), size=50) == reference(
        *from_true(A, B, C), 50
    )
    assert greedy_ensemble(*from_true(A), size=2) == [0]


def test_of_equal_members_the_first_is_taken_and_copies_change_nothing():
    probs, labels = random_pool(3)
    chosen = greedy_ensemble(probs, labels, 4)
    twice = probs.repeat_interleave(2, dim=0)
    assert greedy_ensemble(twice, labels, 4) == [2 * i for i in chosen]


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_members_samples_and_classes_does_not_matter(seed):
    probs, labels = random_pool(seed)
    chosen = greedy_ensemble(probs, labels, 5)
    members, samples, classes = (
        torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        for n in probs.shape
    )
    found = greedy_ensemble(probs[members], labels, 5)
    assert members[torch.tensor(found)].tolist() == chosen
    assert greedy_ensemble(probs[:, samples], labels[samples], 5) == chosen
    renumbered = classes.argsort()[labels]
    assert greedy_ensemble(probs[:, :, classes], renumbered, 5) == chosen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_probability_of_0_costs_what_it_costs_in_metrics_nll(dtype):
    """87.3 nats in float32, 708.4 in float64, halved by the other sample."""
    probs, labels = from_true((0.0, 1.0), (0.001, 0.001), (1.0, 0.0))
    probs = probs.to(dtype)
    path = greedy_path(probs, labels, size=2)
    cost = metrics.nll(probs[0], labels).double().item()
    assert cost == pytest.approx(43.67 if dtype == torch.float32 else 354.2, rel=1e-3)
    assert path.candidates[0].tolist() == pytest.approx([cost, 6.908, cost], rel=1e-3)
    assert path.chosen == [1, 0]  # 0.5005 and 0.0005; with 2 it would be as good
    assert greedy_ensemble(probs, labels, 3) == reference(probs.double(), labels, 3)


def test_the_precision_of_the_probabilities_does_not_matter():
    for seed in range(4):
        probs, labels = random_pool(seed)
        exact = greedy_ensemble(probs, labels, 5)
        assert greedy_ensemble(probs.float(), labels.int(), 5) == exact


def wrong_arguments():
    probs, labels = from_true(A, B, C)
    nan, logits = probs.clone(), probs.clone()
    nan[1, 0, 0] = torch.nan
    logits[2, 1] = 3.0
    return {
        "size": ((probs, labels, 0), "at least one member, got size=0"),
        "one member": ((probs[0], labels, 1), r"\(P, N, C\), one row.*got \(2, 2\)"),
        "no member": ((probs[:0], labels, 1), r"\(P, N, C\), one row.*\(0, 2, 2\)"),
        "no sample": ((probs[:, :0], labels[:0], 1), "member 0 .*probs are empty"),
        "NaN": ((nan, labels, 1), r"member 1 of the pool holds NaN.*leave it out"),
        "logits": ((logits, labels, 1), "member 2 .*row 1 of probs is no distribution"),
        "labels": ((probs, labels[:1], 1), r"labels must be \(2,\).*got \(1,\)"),
        "classes": ((probs, labels + 2, 1), r"label 2 is outside \[0, 2\)"),
        "kind": ((probs, labels.double(), 1), "class indices, got torch.float64"),
    }


@pytest.mark.parametrize("case", wrong_arguments())
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_named(case):
    arguments, message = wrong_arguments()[case]
    with pytest.raises(ValueError, match=message):
        greedy_ensemble(*arguments)


def test_mixing_weights_are_shares_of_the_choices():
    weights = selection.mixing_weights([4, 1, 4, 4], members=6)
    torch.testing.assert_close(weights, torch.tensor([0, 0.25, 0, 0, 0.75, 0]))


@pytest.mark.parametrize("chosen", [[], [0, 3], [-1]])
def test_choices_that_the_pool_does_not_have_are_refused(chosen):
    with pytest.raises(ValueError, match=r"members from 0 to 2, got \["):
        selection.mixing_weights(chosen, members=3)


def test_mixed_probs_are_the_mean_over_the_choices_alone():
    """A member that is not chosen may be anything."""
    probs, _ = random_pool(0)
    logits = probs.log()
    logits[3] = torch.nan
    chosen = [5, 1, 5, 0]
    expected = torch.stack([probs[i] for i in chosen]).mean(0)
    torch.testing.assert_close(selection.mixed_probs(logits, chosen), expected)
