"""Auto-PGD (Croce and Hein 2020): the highest loss in a ball around the weights.

A place is u = (w' - w) / T, so that the set to search is a plain ball ||u||_p <= rho,
adaptive (T = |w|) or not (T = 1).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sbtutor import vector
from sbtutor.vector import LossFn, Params, Vector

Norm = Literal["l2", "linf"]
Rule = Literal["textbook", "code"]
MOMENTUM = 0.75  # share of the newest step
LEAST_RISES = 0.75  # share of the steps between two checkpoints that must go uphill


@dataclass(frozen=True)
class Ball:
    """The set to search, and how to step and to come back inside."""

    scale: Vector  # T
    rho: float
    norm: Norm
    rule: Rule

    def uphill(self, slope: Vector) -> Vector:
        """The direction of steepest ascent, of length 1 (0 where there is none).

        The gradient in u is T g. The published code steps along T g / ||g|| in w,
        which is g / ||g|| in u.
        """
        if self.norm == "linf":
            return slope.sign()
        if self.rule == "code":
            # A weight that is 0 stays (T = 0), but its slope counts in the length.
            return slope.where(self.scale > 0, 0) / (slope.norm() + 1e-12)
        slope = self.scale * slope
        return slope / slope.norm().clamp(min=torch.finfo(slope.dtype).tiny)

    def project(self, u: Vector) -> Vector:
        """The nearest place inside: in u, or (the published code's rule) in w."""
        if self.norm == "linf":
            return u.clamp(-self.rho, self.rho)
        if u.norm() <= self.rho:
            return u
        if self.rule == "code":
            return self._nearest_in_w(u)
        return u * (self.rho / u.norm())

    def _nearest_in_w(self, u: Vector) -> Vector:
        """u / (1 + 2 a / T^2), where a >= 0 brings the length to rho.

        By Newton's method on 1 / length, which is concave in a: from a = 0 it comes
        from one side and needs few steps. A last scaling removes the rest.
        """
        inverse = 2 / self.scale.square().clamp(min=1e-30)
        a = 0.0
        for _ in range(50):
            shrink = (a * inverse).add_(1)  # in place: memory is what these steps cost
            near = u / shrink
            length = near.norm()
            if length <= self.rho * (1 + torch.finfo(u.dtype).eps ** 0.7):
                break
            bend = near @ (inverse / shrink).mul_(near)
            a = a + (length / self.rho - 1) * length.square() / bend
        return near * (self.rho / near.norm()).clamp(max=1)

    def move(
        self, u: Vector, previous: Vector, slope: Vector, size: float, first: bool
    ) -> Vector:
        """One step uphill with momentum.

        Textbook: u + a (z - u) + (1 - a) (u - previous), back inside; z the projected
        step, a = 0.75; the first step is z. The published code: a z + (1 - a) previous,
        the first time too.
        """
        ahead = self.project(u + size * self.uphill(slope))
        if self.rule == "code":
            return MOMENTUM * ahead + (1 - MOMENTUM) * previous
        if first:
            return ahead
        push = MOMENTUM * (ahead - u) + (1 - MOMENTUM) * (u - previous)
        return self.project(u + push)


def checkpoints(steps: int, rule: Rule = "textbook") -> set[int]:
    """After which steps the step size may be halved: w_j = ceil(p_j steps).

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06). The published
    code counts its steps from 0, and does not round p_j steps before the ceiling: of 20
    steps, 14.000000000000002 makes 15.
    """
    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    if rule == "code":
        return {math.ceil(share * steps) + 1 for share in p[1:]}
    return {math.ceil(round(share * steps, 6)) for share in p[1:]}


def rise(loss_fn: LossFn, params: Params, ball: Ball, steps: int) -> Float[Tensor, ""]:
    """How far above the loss at w the ascent gets; >= 0.

    A gradient comes with the loss of its own place, so only the last place costs a
    forward pass of its own: `steps` gradients and one loss in all (and one gradient
    more if the start is stationary).
    """
    w = vector.flatten(params)

    def look(u: Vector) -> tuple[Tensor, Vector]:
        return vector.loss_and_gradient(loss_fn, w + ball.scale * u, params)

    u = previous = torch.zeros_like(w)
    loss, slope = look(u)
    start = loss
    if not (ball.scale * slope).any():  # stationary: no direction is the best
        u = previous = ball.project(_any_direction(u) * ball.rho)
        loss, slope = look(u)
    best = best_then = (loss, slope, u)
    size = size_then = 2 * ball.rho
    marks, code = checkpoints(steps, ball.rule), ball.rule == "code"
    rises, since = 0, int(code)
    for step in range(1, steps):
        u, previous = ball.move(u, previous, slope, size, step == 1), u
        (loss, slope), old = look(u), loss
        vector.check_finite(loss, slope)
        rises += bool(loss > (best[0] if code else old))
        best = (loss, slope, u) if loss > best[0] else best
        if step in marks:
            few = rises < LEAST_RISES * (step - since)
            stuck = size == size_then and best is best_then
            size_then, best_then, rises, since = size, best, 0, step
            if few or stuck:
                size /= 2
                loss, slope = best[:2]
                # The published code puts the weights back, but not its offset u.
                u = u if code else best[2]
    u = ball.move(u, previous, slope, size, steps == 1)
    with torch.no_grad():
        last = loss_fn(vector.unflatten(w + ball.scale * u, params))
    vector.check_finite(last)
    return torch.stack([start, best[0], last]).max() - start


def _any_direction(like: Vector) -> Vector:
    draw = torch.Generator().manual_seed(0)
    v = torch.randn(len(like), generator=draw, dtype=like.dtype).to(like.device)
    return v / v.norm()
