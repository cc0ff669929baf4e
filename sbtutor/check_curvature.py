"""Checks of lesson 06's exercises on the Hessian: its top eigenvalue and its trace."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor.feedback import NOTHING, as_number, exercise


@exercise("06")
def top_eigenvalue(
    answer: Callable[[Callable[[Tensor], Tensor], int, int], Tensor],
) -> str | None:
    """(v -> H v, size of v, steps) to the eigenvalue farthest from 0."""
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
            return problem
    return None


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


@exercise("06")
def hutchinson(
    answer: Callable[[Callable[[Tensor], Tensor], int, int], object],
) -> str | None:
    """(v -> H v, size of v, probes) to the mean of v' H v over random signs v."""
    draw, size, probes = torch.Generator().manual_seed(0), 6, 40
    square = torch.randn(size, size, generator=draw, dtype=torch.float64)
    matrix, seen, floats = square @ square.T + torch.eye(size), [], []

    def product(v: Tensor) -> Tensor:
        seen.append(v.detach().clone().double())
        floats.append(v.is_floating_point())
        return (matrix @ seen[-1]).to(v.dtype)

    found = as_number(answer(product, size, probes), "the trace")
    if isinstance(found, str):
        return found
    if not seen:
        return "H v was never taken; call product(v) for each probe."
    if any(v.shape != (size,) for v in seen):
        return f"hand over one v at a time, with {size} entries."
    if not all(floats):
        return (
            "the entries of v are whole numbers, and H v would be rounded to such; "
            "make them floats: 2.0 * bits - 1."
        )
    v = torch.stack(seen)
    return _probes_problem(v, probes) or _mean_problem(found, v, matrix)


def _probes_problem(v: Tensor, probes: int) -> str | None:
    """What is wrong with the vectors that were handed over, one a row."""
    if len(v) > 1 and torch.equal(v, v[:1].expand_as(v)):
        return "the same probe is used again and again; draw a new v for each."
    if torch.equal(v.abs().sum(1), torch.ones(len(v))) and (v >= 0).all():
        return (
            "these are unit vectors, one for each weight; a network has too many. Draw "
            "random signs."
        )
    if ((v == 0) | (v == 1)).all():
        return "the entries are 0 or 1; signs are -1 and 1, that is 2 * bits - 1."
    if torch.allclose(v.norm(dim=1), torch.ones(len(v)).double(), atol=1e-4):
        return (
            "v was divided by its length, which divides the trace by the number of "
            "weights; leave the signs as they are."
        )
    if not (v.abs() == 1).all():
        return (
            "the entries of v should be signs, -1 or 1; normal numbers are right on "
            "average, too, but scatter more."
        )
    if len(v) != probes:
        return f"{probes} probes were asked for, but H v was taken {len(v)} times."
    if torch.equal(v, v[:, :1].expand_as(v)):
        return "all entries of a probe are alike; draw a sign for each of them."
    return None


def _mean_problem(mine: float, v: Tensor, matrix: Tensor) -> str | None:
    """What is wrong with the number that was made of right probes."""
    bent = v @ matrix
    each = (v * bent).sum(1)
    if math.isclose(mine, each.mean(), rel_tol=1e-4):
        return None
    wrong = {
        "this is the sum over the probes; divide by their number.": each.sum(),
        "this is the last probe's v' H v; take the mean over all.": each[-1],
        "this is the first probe's v' H v; take the mean over all.": each[0],
        "this is the mean eigenvalue; the trace is their sum, so do not divide by the "
        "number of weights.": each.mean() / v.shape[1],
        "this is v' v; take v' H v.": (v * v).sum(1).mean(),
        "this is the mean length of H v; take v' H v.": bent.norm(dim=1).mean(),
        "this adds up H v; multiply by v first, as in v @ product(v).": (
            bent.sum(1).mean()
        ),
        "this is the scatter of the probes, not their mean.": each.std(),
        "this is the standard error, not the mean.": each.std() / len(v) ** 0.5,
    }
    for text, value in wrong.items():
        if math.isclose(mine, value, rel_tol=1e-4):
            return text
    return (
        f"for your probes the mean of v' H v is {each.mean():.4g}; this is {mine:.4g}."
    )
