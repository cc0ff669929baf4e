"""Checks of lesson 09's exercises on controls, SAM's line, and the mixed step."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sbtutor.feedback import as_choice, as_tensor, exercise, of_numbers

Slope = Callable[[Tensor], Tensor]


@exercise("09")
def missing_control(answer: object) -> str | None:
    """Which comparison tells whether the choice of samples is the reason."""
    return as_choice(
        answer,
        {
            "a": "the deep ensemble says how much diversity SAM has cost, not whether "
            "it matters which samples are left without SAM.",
            "b": "a smaller rho gives more diversity and less flatness, too; which "
            "samples have SAM would still not be asked.",
            "c": None,
            "d": "more seeds make the same difference more certain, but the other "
            "reason for it, less SAM, stays.",
        },
    )


def _on(x: float, line_x: list[float], line_y: list[float]) -> float:
    return float(np.interp(x, line_x, line_y))


def _straight(x: float, line_x: list[float], line_y: list[float]) -> float:
    """On the line between the ends, as if there were nothing in between."""
    ends = [[values[0], values[-1]] for values in (line_x, line_y)]
    return _on(x, *ends)


def _extended(x: float, line_x: list[float], line_y: list[float]) -> float:
    """With the first piece going on to the left, the last one to the right."""
    if line_x[0] <= x <= line_x[-1]:
        return _on(x, line_x, line_y)
    i, j = (0, 1) if x < line_x[0] else (-1, -2)
    slope = (line_y[j] - line_y[i]) / (line_x[j] - line_x[i])
    return line_y[i] + slope * (x - line_x[i])


def _nearest(x: float, line_x: list[float], line_y: list[float]) -> float:
    return line_y[min(range(len(line_x)), key=lambda i: abs(line_x[i] - x))]


_NOT_HEIGHTS: dict[str, Callable[[float, float, list, list], float]] = {
    "the sign is wrong: above the line is positive.": (
        lambda x, y, xs, ys: _on(x, xs, ys) - y
    ),
    "this is the height of the line itself; subtract it from y.": (
        lambda x, y, xs, ys: _on(x, xs, ys)
    ),
    "you compare with the nearest point; interpolate between the two neighbours.": (
        lambda x, y, xs, ys: y - _nearest(x, xs, ys)
    ),
    "you join the ends only; the line bends at the points in between.": (
        lambda x, y, xs, ys: y - _straight(x, xs, ys)
    ),
    "outside the points the line goes on horizontally, as np.interp has it.": (
        lambda x, y, xs, ys: y - _extended(x, xs, ys)
    ),
    "x and y are swapped: this is a distance in sharpness at equal diversity.": (
        lambda x, y, xs, ys: x - _on(y, ys, xs)
    ),
    "you subtract the mean of the points; subtract the line at this x.": (
        lambda x, y, xs, ys: y - sum(ys) / len(ys)
    ),
    "this is relative to the line; take the difference.": (
        lambda x, y, xs, ys: y / _on(x, xs, ys) - 1
    ),
}


@exercise("09")
def height_above(
    answer: Callable[[float, float, list[float], list[float]], object],
) -> str | None:
    """(x, y, points' x, points' y) to how far y lies above the line through them."""
    xs, ys = [60.0, 90.0, 140.0], [0.48, 0.53, 0.56]
    cases = [
        (100.0, 0.55, xs, ys),
        (80.0, 0.5, xs, ys),
        (50.0, 0.5, xs, ys),
        (160.0, 0.59, xs, ys),
        (0.4, 3.0, [0.1, 0.3, 0.7], [1.0, 2.0, 4.5]),
    ]

    def right(x: float, y: float, line_x: list[float], line_y: list[float]) -> float:
        return y - _on(x, line_x, line_y)

    return of_numbers(answer, cases, "the height", right, _NOT_HEIGHTS)


@exercise("09")
def mixed_gradient(
    answer: Callable[[Tensor, Slope, Slope, float, float], object],
) -> str | None:
    """(w, SGD part's gradient, SAM part's gradient, share, rho) to the mixed one."""
    draw = torch.Generator().manual_seed(0)
    for share, rho in ((0.75, 0.3), (0.2, 0.1)):
        a, b = torch.randn(2, 3, 3, generator=draw)
        u, v, w = torch.randn(3, 3, generator=draw)
        kept = w.clone()

        def plain(at: Tensor, a: Tensor = a, u: Tensor = u) -> Tensor:
            return a.T @ (a @ at - u)

        def sam(at: Tensor, b: Tensor = b, v: Tensor = v) -> Tensor:
            return b.T @ (b @ at - v)

        mine = answer(w, plain, sam, share, rho)
        problem = as_tensor(mine, kept, "one number for each weight")
        if problem is None and not torch.equal(w, kept):
            problem = "you changed w in place: the perturbation is not undone."
        problem = problem or _mixed_problem(mine, kept, plain, sam, share, rho)
        if problem is not None:
            return problem
    return None


def _mixed_problem(
    mine: Tensor, w: Tensor, plain: Slope, sam: Slope, r: float, rho: float
) -> str | None:
    g = sam(w)
    if torch.allclose(
        mine, (1 - r) * plain(w) + r * sam(w + rho * g / g.norm()), atol=1e-5
    ):
        return None
    for text, value in _wrong_mixtures(w, plain, sam, r, rho).items():
        if torch.allclose(mine, value, atol=1e-5):
            return text
    return (
        "it should be (1 - r) grad_n(w) + r grad_s(w + rho g / ||g||), g = grad_s(w)."
    )


def _wrong_mixtures(
    w: Tensor, plain: Slope, sam: Slope, r: float, rho: float
) -> dict[str, Tensor]:
    def ahead(g: Tensor) -> Tensor:
        """The weights a distance rho along g."""
        return w + rho * g / g.norm()

    g_n, g_s = plain(w), sam(w)
    up, slow = sam(ahead(g_s)), (1 - r) * g_n
    both = slow + r * g_s
    return {
        "the SGD part is taken at w; you took it at the perturbed weights, too.": (
            (1 - r) * plain(ahead(g_s)) + r * up
        ),
        "the uphill step looks at the SAM part alone, not at both.": (
            slow + r * sam(ahead(both))
        ),
        "the uphill step follows the SAM part's gradient, not the SGD part's.": (
            slow + r * sam(ahead(g_n))
        ),
        "the shares are swapped: SAM's part has weight r, SGD's part 1 - r.": (
            r * g_n + (1 - r) * up
        ),
        "each part has to have its share of the batch as its weight.": g_n + up,
        "the parts are unlike in size: weigh them by 1 - r and r, not by halves.": (
            (g_n + up) / 2
        ),
        "this is plain gradient descent on all samples; take SAM's part at the "
        "perturbed weights.": both,
        "this is SAM on its part alone; add (1 - r) times the SGD part's gradient.": (
            r * up
        ),
        "the perturbation goes downhill; the sign is wrong.": (
            slow + r * sam(ahead(-g_s))
        ),
        "the perturbation is not normalised; divide by the length of its gradient.": (
            slow + r * sam(w + rho * g_s)
        ),
    }
