"""Checks of lesson 01's exercises."""

from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor.feedback import as_tensor, exercise, of_numbers


@exercise("01")
def ensemble_probs(answer: Callable[[Tensor], object]) -> str | None:
    """Lesson 01: logits (M, N, C) to the ensemble's probabilities (N, C)."""
    logits = 3 * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    right = logits.softmax(-1).mean(0)
    mine = answer(logits.clone())
    problem = as_tensor(mine, right, "one row of C probabilities per sample")
    if problem is not None or torch.allclose(mine.to(right), right, atol=1e-5):
        return problem
    wrong = {
        "you averaged the logits; turn each member's logits into probabilities first, "
        "then average over members.": logits.mean(0).softmax(-1),
        "these are averaged logits, not probabilities; apply softmax to each member's "
        "logits before the mean.": logits.mean(0),
        "softmax runs over the wrong axis; classes are the last one.": logits.softmax(
            0
        ).mean(0),
        "you summed over members; divide by their number.": logits.softmax(-1).sum(0),
    }
    for text, value in wrong.items():
        if torch.allclose(mine.to(value), value, atol=1e-5):
            return text
    return "the rows should be the mean over members of softmax(logits)."


@exercise("01")
def vote(answer: Callable[[Tensor], object]) -> str | None:
    """Lesson 01: logits (M, N, C) to the class with most votes (N,)."""
    logits = 3 * torch.randn(5, 60, 3, generator=torch.Generator().manual_seed(0))
    votes = logits.argmax(-1)
    counts = torch.stack([(votes == c).sum(0) for c in range(3)], dim=1)
    first, second = counts.topk(2).values.unbind(1)
    clear = first > second  # how ties are broken is left open
    logits, counts, votes = logits[:, clear], counts[clear], votes[:, clear]
    right = counts.argmax(1)
    mine = answer(logits.clone())
    problem = as_tensor(mine, right, "one class per sample")
    if problem is not None or torch.equal(mine, right):
        return problem
    wrong = {
        "this is the class of the largest mean probability; count votes "
        "instead.": logits.softmax(-1).mean(0).argmax(-1),
        "this is the class of the largest mean logit; count votes "
        "instead.": logits.mean(0).argmax(-1),
        "this is the number of votes; return the class that got them.": counts.amax(1),
        "this is one member's answer; let all of them vote.": votes[0],
    }
    for text, value in wrong.items():
        if torch.equal(mine, value):
            return text
    return "each member's vote is the class of its largest logit."


@exercise("01")
def brier_by_size(answer: Callable[[float, float, int], object]) -> str | None:
    """Lesson 01: mean Brier scores of sizes 1 and 2, and a size M, to that of M."""

    def right(one: float, two: float, size: int) -> float:
        return one - 2 * (1 - 1 / size) * (one - two)

    wrong = {
        "your V is one - two; but that is half of V.": lambda one, two, size: (
            one - (1 - 1 / size) * (one - two)
        ),
        "the ambiguity is what the mean gains: subtract it.": lambda one, two, size: (
            one + 2 * (1 - 1 / size) * (one - two)
        ),
        "this is the ambiguity; subtract it from the score of one member.": (
            lambda one, two, size: 2 * (1 - 1 / size) * (one - two)
        ),
        "this is the limit of infinitely many members; M has only (1 - 1/M) of the "
        "gain.": lambda one, two, size: one - 2 * (one - two),
        "you let each further member bring as much as the second did.": (
            lambda one, two, size: one - (size - 1) * (one - two)
        ),
        "you let each further member bring half of what the one before did; the law "
        "is (1 - 1/M) V.": lambda one, two, size: (
            one - 2 * (1 - 0.5 ** (size - 1)) * (one - two)
        ),
        "you start from two members, but take off the whole ambiguity of M.": (
            lambda one, two, size: two - 2 * (1 - 1 / size) * (one - two)
        ),
    }
    cases = ((0.22, 0.20, 5), (0.5, 0.4, 3), (0.3, 0.29, 2))
    return of_numbers(answer, cases, "the Brier score of size M", right, wrong)


@exercise("01")
def ambiguity(answer: Callable[[Tensor], object]) -> str | None:
    """Lesson 01: probabilities (M, N, C) to the members' variance around their mean."""

    def from_mean(probs: Tensor) -> Tensor:
        return probs - probs.mean(0)

    def right(probs: Tensor) -> Tensor:
        return from_mean(probs).square().sum(-1).mean()

    wrong = {
        "you took the mean over classes, too; take their sum.": lambda probs: (
            from_mean(probs).square().mean()
        ),
        "you divided by M - 1; divide by M.": lambda probs: probs.var(0).sum(-1).mean(),
        "you took the sum over members; take their mean.": lambda probs: (
            from_mean(probs).square().sum((0, 2)).mean()
        ),
        "you took the sum over images; take their mean.": lambda probs: (
            from_mean(probs).square().sum((1, 2)).mean()
        ),
        "without squares the differences from the mean cancel.": lambda probs: (
            from_mean(probs).sum(-1).mean()
        ),
        "these are absolute differences; square them.": lambda probs: (
            from_mean(probs).abs().sum(-1).mean()
        ),
        "this is the mean distance; leave the root out.": lambda probs: (
            from_mean(probs).norm(dim=-1).mean()
        ),
        "you subtracted the mean over images; members are the first axis.": (
            lambda probs: (probs - probs.mean(1, keepdim=True)).square().sum(-1).mean()
        ),
    }
    small = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]], dtype=torch.float64)
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    cases = (small,), (logits.double().softmax(-1),)
    return of_numbers(answer, cases, "the ambiguity", right, wrong)
