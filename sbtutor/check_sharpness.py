"""Checks of the exercises on sharpness and SAM: lessons 06, 07 and 09."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor import sharpbalance
from sbtutor.feedback import NOTHING, as_tensor, say


def top_eigenvalue(
    answer: Callable[[Callable[[Tensor], Tensor], int, int], Tensor],
) -> bool:
    """Lesson 06: (v -> H v, size of v, steps) to the eigenvalue farthest from 0."""
    draw = torch.Generator().manual_seed(0)
    for values in ((4.0, 2.0, 1.0, 0.5, -1.0), (-6.0, 3.0, 2.0, 1.0, -0.5, 0.1, 0.2)):
        size = len(values)
        vectors = torch.linalg.qr(torch.randn(size, size, generator=draw)).Q
        matrix, calls = vectors @ torch.tensor(values).diag() @ vectors.T, []

        def product(v: Tensor, matrix: Tensor = matrix, calls: list = calls) -> Tensor:
            calls.append(len(calls))
            return matrix @ v

        mine = answer(product, size, 80)
        problem = _top_eigenvalue_problem(mine, values, vectors[:, 0], len(calls))
        if problem is not None:
            return say(problem)
    return say(None)


def _top_eigenvalue_problem(
    mine: object, values: tuple[float, ...], top: Tensor, calls: int
) -> str | None:
    if mine is None or mine is Ellipsis:
        return NOTHING
    try:
        mine = torch.as_tensor(mine, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        return f"return one number; this is a {type(mine).__name__}."
    if mine.shape == top.shape:
        return "this is a vector; return the eigenvalue, v' H v with v of length 1."
    if mine.shape != ():
        return f"return one number; the shape of this is {tuple(mine.shape)}."
    mine, right = float(mine), values[0]
    if math.isclose(mine, right, rel_tol=1e-3):
        return None
    if calls < 80:
        return (
            f"80 steps were asked for, but H v was taken {calls} times; apply H and "
            "normalise once a step."
        )
    if not math.isfinite(mine) or abs(mine) > 1e6:
        return "the numbers explode; divide v by its length after each product."
    wrong = {
        "the sign is lost; a length is never negative, so return v' H v.": -right,
        "this is the length of v; return v' H v.": 1.0,
        "0 is no eigenvalue of this H; start from a random v, since a v of zeros "
        "stays zero.": 0.0,
        "v is not a unit vector; divide by the root of its sum of squares, not by its "
        "sum of absolute values.": right / float(top.abs().sum()) ** 2,
        "v is not a unit vector; divide by the root of its sum of squares, not by its "
        "largest entry.": right / float(top.abs().max()) ** 2,
        "this is the trace, the sum of all eigenvalues.": sum(values),
        "this is the eigenvalue squared; apply H once more to the unit vector, not "
        "twice.": right**2,
        "this is the largest eigenvalue by sign; power iteration finds the one that is "
        "farthest from 0.": max(values),
    }
    for text, value in wrong.items():
        if math.isclose(mine, value, rel_tol=1e-3, abs_tol=1e-6):
            return text
    return "the result should be the eigenvalue of H that is farthest from 0, any H."


def sam_step(answer: Callable[[Tensor, Tensor, float], Tensor]) -> bool:
    """Lesson 07: SAM's step, (w, gradient, rho) to w + rho g / ||g||."""
    w, g = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 0.0, -4.0])
    for rho in (0.1, 0.25):  # a second radius, so that rho is really used
        before = w.clone()
        mine = answer(w, g.clone(), rho)
        problem = as_tensor(mine, before, "the perturbed weights")
        if problem is None and not torch.equal(w, before):
            problem = (
                "you changed w in place; SAM still needs the old weights, so return a "
                "new tensor."
            )
        problem = problem or _sam_step_problem(mine, before, g, rho)
        if problem is not None:
            break
    return say(problem)


def _sam_step_problem(mine: Tensor, w: Tensor, g: Tensor, rho: float) -> str | None:
    if torch.allclose(mine.to(w), w + rho * g / g.norm(), atol=1e-6):
        return None
    wrong = {
        "this goes downhill; SAM looks uphill, so add the step.": w - rho * g / 5,
        "the step is not normalised; divide the gradient by its length, so that the "
        "step is rho long.": w + rho * g,
        "this is the step alone; add it to the weights.": rho * g / 5,
        "divide by the length ||g||, not by its square.": w + rho * g / 25,
        "the length is the root of the sum of squares, not the sum of absolute "
        "values.": w + rho * g / 7,
        "use the length over all entries together, not the sign of each.": w
        + rho * g.sign(),
    }
    for text, value in wrong.items():
        if torch.allclose(mine.to(value), value, atol=1e-6):
            return text
    return "the result should be w + rho * g / ||g||, for any rho."


def sam_masks(answer: Callable[[Tensor, float], Tensor]) -> bool:
    """Lesson 09: scores (M, N) and k to the paper's SAM masks (M, N)."""
    for members, samples, k in ((3, 12, 0.25), (5, 20, 0.2)):
        generator = torch.Generator().manual_seed(1)
        scores = torch.rand(members, samples, generator=generator)
        right = sharpbalance.sam_masks(scores, k)
        mine = answer(scores.clone(), k)
        problem = as_tensor(mine, right, "one True or False per member and sample")
        if problem is None and not torch.equal(mine.bool(), right):
            problem = _sam_masks_problem(mine.bool(), scores, k)
        if problem is not None:
            break
    return say(problem)


def _sam_masks_problem(mine: Tensor, scores: Tensor, k: float) -> str:
    top = scores >= scores.topk(int(k * scores.shape[1]), dim=1).values[:, -1:]
    members = range(len(top))
    others = [[j for j in members if j != i] for i in members]
    wrong = {
        "each member got its own sharpest samples; it should get those that the "
        "*other* members nominate.": top,
        "every member got the union of all nominations; leave out its own.": top.any(
            0
        ).expand_as(top),
        "you joined the nominations by AND; one nomination is enough.": torch.stack(
            [top[rest].all(0) for rest in others]
        ),
        "these are the flattest samples; the paper takes the sharpest (the published "
        "code takes the flattest).": sharpbalance.sam_masks(-scores, k),
        "True and False are swapped: True marks the samples for SAM.": torch.stack(
            [~top[rest].any(0) for rest in others]
        ),
    }
    for text, value in wrong.items():
        if torch.equal(mine, value):
            return text
    return (
        "member i's row should be True where some other member has the sample among "
        "its k N sharpest, for any number of members and any k."
    )
