"""Planes against geometry, in float64."""

import math

import jaxtyping
import pytest
import torch

from sbtutor import planes


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_axes_of_a_plane_are_orthonormal():
    plane = planes.plane_through(*random(3, 50))
    identity = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(plane.axes @ plane.axes.T, identity)


def test_axes_are_orthonormal_when_points_are_almost_on_a_line():
    """A single pass of Gram and Schmidt is off by 1e-4 here."""
    a, b, noise = random(3, 1000).float()
    plane = planes.plane_through(a, b, (a + b) / 2 + 1e-3 * noise)
    assert abs(plane.axes[0] @ plane.axes[1]) < 1e-6


def test_a_plane_passes_through_its_points():
    """At (0, 0), (|b - a|, 0) and the foot and height of the triangle's corner c."""
    a, b, c = points = random(3, 50)
    plane = planes.plane_through(a, b, c)
    base = (b - a).norm()
    foot = (c - a) @ (b - a) / base
    height = ((c - a).square().sum() - foot**2).sqrt()
    expected = torch.stack([base * 0, base * 0, base, base * 0, foot, height])
    coordinates = plane.coordinates(points)
    torch.testing.assert_close(coordinates, expected.view(3, 2))
    torch.testing.assert_close(plane.origin + coordinates @ plane.axes, points)


def test_a_radial_plane_shows_lengths_and_angles():
    """Radii in the plane are norms of the weights, angles those between them."""
    a, b = points = random(2, 50)
    plane = planes.radial_plane(a, b)
    assert torch.equal(plane.origin, torch.zeros_like(a))
    at = plane.coordinates(points)
    torch.testing.assert_close(at.norm(dim=1), points.norm(dim=1))
    torch.testing.assert_close(at[0], torch.stack([a.norm(), a.norm() * 0]))
    torch.testing.assert_close(at @ at.T, points @ points.T)


def test_grid_and_coordinates_are_each_others_inverse_row_after_row():
    plane = planes.plane_through(*random(3, 50))
    x, y = random(4, seed=1), random(3, seed=2)
    at = plane.coordinates(plane.points(x, y)).view(3, 4, 2)
    torch.testing.assert_close(at[..., 0], x.expand(3, 4))
    torch.testing.assert_close(at[..., 1], y[:, None].expand(3, 4))


def test_coordinates_are_of_the_nearest_point_of_the_plane():
    plane = planes.plane_through(*random(3, 50))
    point = random(1, 50, seed=1)
    rest = point - plane.origin - plane.coordinates(point) @ plane.axes
    torch.testing.assert_close(rest @ plane.axes.T, torch.zeros(1, 2).double())


def test_a_grid_has_the_precision_of_its_plane():
    plane = planes.plane_through(*random(3, 5))
    x, y = torch.tensor([1.0, 2]), torch.tensor([3.0])
    expected = plane.points(x.double(), y.double())
    for mixed in ((x, y), (x.double(), y), (x, y.double())):
        found = plane.points(*mixed)
        assert found.dtype == torch.float64
        assert torch.equal(found, expected)


A, B = torch.tensor([1.0, 2, 3]), torch.tensor([3.0, 2, 1])


@pytest.mark.parametrize(
    "points",
    [(A, A, B), (A, B, A), (A, B, B), (A, B, (A + B) / 2)],
)
def test_points_on_one_line_span_no_plane(points):
    with pytest.raises(ValueError, match="three points that are not on one line"):
        planes.plane_through(*points)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_points_that_are_not_finite_span_no_plane(which, value):
    points = [A, B, A * B]
    points[which] = points[which] * value
    with pytest.raises(ValueError, match="must be finite, got NaN or infinity: train"):
        planes.plane_through(*points)


@pytest.mark.parametrize("b", [2 * A, -A, 0 * A])
def test_parallel_weights_span_no_radial_plane(b):
    with pytest.raises(ValueError, match="of a radial plane one is 0"):
        planes.radial_plane(A, b)


def test_points_of_different_lengths_are_named(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="got 3, 3 and 2; take points of one archit"):
        planes.plane_through(A, B, A[:2])
