"""Lesson 01's exercises: stubs fail, solutions pass, each mistake gets its message."""

import pytest
import torch

from sbtutor import check, metrics


def probs(z):
    return z.softmax(-1).mean(0)


def vote(z):
    return z.argmax(-1).mode(dim=0).values


def vote_by_count(z):
    votes = z.argmax(-1)
    counts = [(votes == c).sum(0) for c in range(z.shape[-1])]
    return torch.stack(counts).argmax(0)


def brier(one, two, size):
    return one - 2 * (1 - 1 / size) * (one - two)


def brier_by_limit(one, two, size):
    limit = two - (one - two)
    return limit + (one - limit) / size


def squares(p):
    return (p - p.mean(0)).square()


def ambiguity(p):
    return squares(p).sum(-1).mean()


SOLUTIONS = [
    (check.ensemble_probs, probs),
    (check.ensemble_probs, metrics.ensemble_probs),
    (check.vote, vote),
    (check.vote, vote_by_count),
    (check.ambiguity, ambiguity),
    (check.ambiguity, lambda p: float(p.var(0, correction=0).sum(-1).mean())),
    (check.brier_by_size, brier),
    (check.brier_by_size, brier_by_limit),
]
EXERCISES = [check.ensemble_probs, check.vote, check.ambiguity, check.brier_by_size]
MISTAKES = [
    (check.ensemble_probs, lambda z: z.mean(0).softmax(-1), "averaged the logits"),
    (check.ensemble_probs, lambda z: z.mean(0), "not probabilities"),
    (check.ensemble_probs, lambda z: z.softmax(0).mean(0), "wrong axis"),
    (check.ensemble_probs, lambda z: z.softmax(-1).sum(0), "divide by their number"),
    (check.ensemble_probs, lambda z: z.softmax(-1), "the shape should be"),
    (check.ensemble_probs, lambda z: 0.5, "a float"),
    (check.ensemble_probs, lambda z: z.softmax(-1)[0], "the mean over members"),
    (check.vote, lambda z: probs(z).argmax(-1), "mean probability"),
    (check.vote, lambda z: z.mean(0).argmax(-1), "mean logit"),
    (check.vote, lambda z: z.argmax(-1)[0], "one member's answer"),
    (check.vote, lambda z: z.argmin(-1).mode(dim=0).values, "largest logit"),
    (
        check.vote,
        lambda z: (z.argmax(-1) == vote(z)).sum(0),
        "this is the number of votes",
    ),
    (check.ambiguity, lambda p: squares(p).mean(), "the mean over classes, too"),
    (check.ambiguity, lambda p: p.var(0).sum(-1).mean(), "divided by M - 1"),
    (check.ambiguity, lambda p: len(p) * ambiguity(p), "the sum over members"),
    (check.ambiguity, lambda p: p.shape[1] * ambiguity(p), "the sum over images"),
    (check.ambiguity, lambda p: (p - p.mean(0)).sum(-1).mean(), "cancel"),
    (check.ambiguity, lambda p: squares(p).sqrt().sum(-1).mean(), "absolute"),
    (check.ambiguity, lambda p: squares(p).sum(-1).sqrt().mean(), "the root"),
    (
        check.ambiguity,
        lambda p: ((p - p.mean(1, keepdim=True)) ** 2).sum(-1).mean(),
        "members are the first axis",
    ),
    (check.ambiguity, lambda p: 2 * ambiguity(p), "it should be 0.08; this is 0.16"),
    (check.ambiguity, lambda p: squares(p).sum(-1).mean(0), "this is a Tensor"),
    (check.brier_by_size, lambda a, b, m: a - (1 - 1 / m) * (a - b), "half of V"),
    (check.brier_by_size, lambda a, b, m: 2 * a - brier(a, b, m), "subtract it"),
    (check.brier_by_size, lambda a, b, m: a - brier(a, b, m), "this is the ambiguity"),
    (check.brier_by_size, lambda a, b, m: 2 * b - a, "infinitely many"),
    (check.brier_by_size, lambda a, b, m: a - (m - 1) * (a - b), "as much as"),
    (
        check.brier_by_size,
        lambda a, b, m: a - sum((a - b) / 2**k for k in range(m - 1)),
        "half of what the one before did",
    ),
    (
        check.brier_by_size,
        lambda a, b, m: brier(a, b, m) + b - a,
        "you start from two members",
    ),
    (check.brier_by_size, lambda a, b, m: brier(a, b, 5), "it should be 0.3667; this"),
    (check.brier_by_size, lambda a, b, m: [0.2], "this is a list"),
]


def test_the_law_of_sizes_is_exact_over_all_subsets():
    """That is, what exercise 4 predicts is what a figure of the lesson shows."""
    logits = torch.randn(5, 30, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % 4
    by_size = metrics.by_size(
        logits.double().softmax(-1), lambda p: metrics.brier(p.mean(0), labels)
    )
    for size, value in enumerate(by_size.tolist(), start=1):
        assert brier(*by_size[:2].tolist(), size) == pytest.approx(value)
