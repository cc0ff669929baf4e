"""Lesson 03's exercises on costs and gains: each mistake gets its message."""

import torch
from torch.nn import functional as F

from sbtutor import check, check_budget, hyper


def trainings(kappa, size, unique):
    return kappa + unique * (size - 1)


def of_truth(z, y):
    return z.softmax(-1)[:, range(len(y)), y]


def member_nlls(z, y):
    return -of_truth(z, y).log().mean(1)


def ensemble_nll(z, y):
    return -of_truth(z, y).mean(0).log().mean()


def gain(z, y):
    return member_nlls(z, y).mean() - ensemble_nll(z, y)


def gain_by_torch(z, y):
    members = sum(F.cross_entropy(one, y) for one in z) / len(z)
    return float(members - F.nll_loss(z.softmax(-1).mean(0).log(), y))


THIRDS = (2 / 3, 1 / 3)

# An answer that is a tuple holds several arguments.
SOLUTIONS = [
    (check.trainings, trainings),
    (check.largest_search, 28),
    (check.repeats, (THIRDS, False)),
    (check.repeats, ([0.67, 0.33], False)),
    (check.nll_gain, gain),
    (check.nll_gain, gain_by_torch),
]
EXERCISES = [check.trainings, check.largest_search, check.repeats, check.nll_gain]
MISTAKES = [
    (check.trainings, lambda kappa, k, u: kappa + u * k, "in the pool already"),
    (check.trainings, lambda kappa, k, u: kappa + k * (k - 1), "not K"),
    (check.trainings, lambda kappa, k, u: kappa + k**2, "not K; and the first network"),
    (check.trainings, lambda kappa, k, u: u * (k - 1), "search count, too"),
    (check.trainings, lambda kappa, k, u: kappa * k, "whole search"),
    (check.trainings, lambda kappa, k, u: 77, "it should be 62; this is 77"),
    (check.trainings, lambda kappa, k, u: 50 + u * (k - 1), "for kappa = 24"),
    (check.largest_search, 24, "in the search already"),
    (check.largest_search, 37, "room for one setting"),
    (check.largest_search, 36, "more than one further"),
    (check.largest_search, 10, "not the whole search"),
    (check.largest_search, 12, "what steps 3 and 4 take"),
    (check.largest_search, 40, "nothing is left"),
    (check.largest_search, 30, "30 and 12 more are 42 trainings, not 40"),
    (check.largest_search, "many", "this is a str"),
    (check.repeats, ((2, 1), False), "add up to 1"),
    (check.repeats, ((0.5, 0.5), False), "the weights before"),
    (check.repeats, ((0.75, 0.25), False), "not four"),
    (check.repeats, ((1 / 3, 2 / 3), False), "A comes first"),
    (check.repeats, ((0.9, 0.1), False), "c / t"),
    (check.repeats, (0.67, False), "two weights in brackets"),
    (check.repeats, (THIRDS, True), "the mean of A and A is A"),
    (check.repeats, (THIRDS, "no"), "True or False"),
    (check.repeats, (THIRDS, ...), "replace the dots"),
    (check.nll_gain, lambda z, y: -gain(z, y), "the sign is wrong"),
    (check.nll_gain, lambda z, y: member_nlls(z, y).mean(), "the members' mean NLL;"),
    (check.nll_gain, ensemble_nll, "the ensemble's NLL;"),
    (
        check.nll_gain,
        lambda z, y: member_nlls(z, y).min() - ensemble_nll(z, y),
        "the best member",
    ),
    (
        check.nll_gain,
        lambda z, y: member_nlls(z, y).mean() - F.cross_entropy(z.mean(0), y),
        "not logits",
    ),
    (
        check.nll_gain,
        lambda z, y: member_nlls(z, y).sum() - ensemble_nll(z, y),
        "add the members' NLLs",
    ),
    (check.nll_gain, lambda z, y: len(y) * gain(z, y), "add over images"),
    (check.nll_gain, lambda z, y: 2 * gain(z, y), "it should be 0."),
    (check.nll_gain, lambda z, y: member_nlls(z, y), "this is a Tensor"),
]


def test_the_largest_search_is_the_packages():
    assert hyper.search_size(check_budget.BUDGET, check_budget.SIZE) == 28


def test_a_first_choice_is_never_repeated_at_once():
    """What exercise 5 claims."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        probs = torch.randn(4, 6, 3, generator=generator).softmax(-1)
        labels = torch.randint(3, (6,), generator=generator)
        chosen = hyper.greedy_path(probs, labels, size=4).chosen
        assert chosen[0] not in chosen[1:2]
