"""Checks of the exercises: each says what is wrong, not only that it is.

A check takes the learner's function, calls it on small inputs and prints one line. It
returns True only for a right answer, so that a cell can also assert it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor import sharpbalance


def _say(problem: str | None) -> bool:
    print("Right." if problem is None else f"Not yet: {problem}")
    return problem is None


def _as_tensor(value: object, like: Tensor, what: str) -> str | None:
    """Why a value cannot be the answer at all; None if its kind and shape are right."""
    if value is None or value is Ellipsis:
        return "the function returns nothing so far; replace the dots."
    if not isinstance(value, Tensor):
        return f"return a tensor, {what}; this is a {type(value).__name__}."
    if value.shape != like.shape:
        return (
            f"the shape should be {tuple(like.shape)}, {what}; "
            f"this is {tuple(value.shape)}."
        )
    return None


def ensemble_probs(answer: Callable[[Tensor], Tensor]) -> bool:
    """Lesson 01: logits (M, N, C) to the ensemble's probabilities (N, C)."""
    logits = 3 * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    right = logits.softmax(-1).mean(0)
    mine = answer(logits.clone())
    problem = _as_tensor(mine, right, "one row of C probabilities per sample")
    if problem is not None or torch.allclose(mine, right, atol=1e-5):
        return _say(problem)
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
        if torch.allclose(mine, value, atol=1e-5):
            return _say(text)
    return _say("the rows should be the mean over members of softmax(logits).")


def sam_step(answer: Callable[[Tensor, Tensor, float], Tensor]) -> bool:
    """Lesson 07: SAM's step, (w, gradient, rho) to w + rho g / ||g||."""
    w, g = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 0.0, -4.0])
    before = w.clone()
    mine = answer(w, g.clone(), 0.1)
    problem = _as_tensor(mine, before, "the perturbed weights")
    if problem is not None:
        return _say(problem)
    wrong = {
        "this goes downhill; SAM looks uphill, so add the step.": before - 0.1 * g / 5,
        "the step is not normalised; divide the gradient by its length, so that the "
        "step is rho long.": before + 0.1 * g,
        "this is the step alone; add it to the weights.": 0.1 * g / 5,
        "divide by the length ||g||, not by its square.": before + 0.1 * g / 25,
        "use the length over all entries together, not the sign of each.": before
        + 0.1 * g.sign(),
    }
    for text, value in wrong.items():
        if torch.allclose(mine, value, atol=1e-6):
            return _say(text)
    if not torch.allclose(mine, before + 0.1 * g / 5, atol=1e-6):
        return _say("the result should be w + rho * g / ||g||.")
    if not torch.equal(w, before):
        return _say(
            "the result is right, but you changed w in place; SAM still needs the old "
            "weights, so return a new tensor."
        )
    return _say(None)


def sam_masks(answer: Callable[[Tensor, float], Tensor]) -> bool:
    """Lesson 09: scores (M, N) and k to the paper's SAM masks (M, N)."""
    scores = torch.rand(3, 12, generator=torch.Generator().manual_seed(1))
    right = sharpbalance.sam_masks(scores, 0.25)
    mine = answer(scores.clone(), 0.25)
    problem = _as_tensor(mine, right, "one True or False per member and sample")
    if problem is not None or torch.equal(mine.bool(), right):
        return _say(problem)
    top = scores >= scores.topk(3, dim=1).values[:, -1:]
    flat = sharpbalance.sam_masks(-scores, 0.25)
    wrong = {
        "each member got its own sharpest samples; it should get those that the "
        "*other* members nominate.": top,
        "every member got the union of all nominations; leave out its own.": top.any(
            0
        ).expand_as(top),
        "these are the flattest samples; the paper takes the sharpest (the published "
        "code takes the flattest).": flat,
        "True and False are swapped: True marks the samples for SAM.": ~right,
    }
    for text, value in wrong.items():
        if torch.equal(mine.bool(), value):
            return _say(text)
    return _say(
        "member i's row should be True where some other member has the sample among "
        "its k N sharpest."
    )
