"""Planes through optima in weight space, as landscapes are drawn on."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sbtutor.stack import Points
from sbtutor.vector import Vector


@dataclass(frozen=True)
class Plane:
    """A plane in weight space, origin + x axes[0] + y axes[1]; orthonormal axes."""

    origin: Vector
    axes: Float[Tensor, "2 P"]

    def points(
        self, x: Float[Tensor, " X"], y: Float[Tensor, " Y"]
    ) -> Float[Tensor, "Y*X P"]:
        """The weights at each crossing of a grid, row after row: y slow, x fast.

        So `values.view(len(y), len(x))` is the map of one value per point. Of a large
        network take a row at a time, `points(x, y[i : i + 1])`, to spare memory.
        """
        down, right = torch.meshgrid(y.to(self.axes), x.to(self.axes), indexing="ij")
        grid = torch.stack([right, down], -1).flatten(0, 1)
        return self.origin + grid @ self.axes

    def coordinates(self, points: Points) -> Float[Tensor, "S 2"]:
        """(x, y) of each point, or of the foot of its perpendicular on the plane."""
        return (points - self.origin) @ self.axes.T


def plane_through(a: Vector, b: Vector, c: Vector) -> Plane:
    """The plane of three points, as Garipov et al. 2018 draw it.

    The origin is a; axis 0 points from a to b, axis 1 is c - a less its part along
    axis 0 (Gram and Schmidt). So a lies at (0, 0), b at (x > 0, 0), c at y > 0.

    Raises:
        ValueError: points of different lengths, not finite, or on one line.
    """
    if not a.shape == b.shape == c.shape:
        raise ValueError(
            "the points of a plane need equally many weights, got "
            f"{a.numel()}, {b.numel()} and {c.numel()}; take points of one architecture"
        )
    if not all(point.isfinite().all() for point in (a, b, c)):
        raise ValueError(
            "the points of a plane must be finite, got NaN or infinity: training has "
            "diverged; take the weights of other members"
        )
    first, second = b - a, c - a
    axis = first / first.norm()
    rest = second
    for _ in range(2):  # the second time removes what rounding left of axis 0
        rest = rest - (rest @ axis) * axis
    # A smaller angle than this is not told from rounding.
    least = math.sqrt(torch.finfo(a.dtype).eps) * second.norm()
    if not (first.norm() > 0 and rest.norm() > least):  # false for overflow too
        raise ValueError(
            "a plane needs three points that are not on one line (of a radial plane "
            "one is 0), and these are; take the weights of different members"
        )
    return Plane(a, torch.stack([axis, rest / rest.norm()]))


def radial_plane(a: Vector, b: Vector) -> Plane:
    """The plane of 0, a and b, in which the radius is the length of the weights.

    Axis 0 is a / |a|, axis 1 is b less its part along axis 0 (Fort et al. 2019).

    Raises:
        ValueError: as `plane_through`.
    """
    return plane_through(torch.zeros_like(a), a, b)
