"""Paths meet their ends; a fitted bend goes round the hill that the line crosses."""

import math

import pytest
import torch
from torch import nn

from sbtutor import data, paths, sharpness, vector

P = 7


def points(count: int, columns: int = P) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, columns, generator=generator, dtype=torch.float64)


def blank(samples: int) -> data.Split:
    """Images that say nothing, with the label 0."""
    images = torch.zeros(samples, 1, 1, 1, dtype=torch.uint8)
    return data.Split(images, torch.zeros(samples).long(), ("valley", "hill"))


class Ring(nn.Module):
    """A network of two weights, whose loss is least on the circle ||w|| = 1.

    L(w) = log(1 + exp((||w||^2 - 1)^2))   at the label 0
    """

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height = (self.w.square().sum() - 1).square()
        return torch.stack([-height, torch.zeros_like(height)]).expand(len(images), 2)


def ring_loss(w: torch.Tensor) -> torch.Tensor:
    """The same loss of many places (..., 2)."""
    return ((w.square().sum(-1) - 1).square().exp() + 1).log()


def on_ring(degrees: float) -> torch.Tensor:
    angle = math.radians(degrees)
    return torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)


RING_ENDS = on_ring(70), on_ring(-70)


@pytest.fixture(scope="module")
def ring_bend():
    """The fit between two places on the ring, 140 degrees apart; 3000 steps."""
    settings = {"epochs": 6, "batch_size": 1, "lr": 0.05}
    return paths.fit_bend(Ring(), *RING_ENDS, blank(500), **settings)


class Noisy(nn.Module):
    """A small network of images; dropout in two places if asked for."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(rate),
            nn.Linear(16, 6),
            nn.ReLU(),
            nn.Dropout(rate),
            nn.Linear(6, 3),
        ).double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def small_task():
    """60 images of 3 classes, and two places in the weight space of `Noisy`."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (60, 1, 4, 4), generator=generator).to(torch.uint8)
    labels = images.flatten(1)[:, :3].argmax(1)  # the brightest of three pixels
    size = sum(p.numel() for p in Noisy().parameters())
    a, b = 0.5 * points(2, size)
    return data.Split(images, labels, ("a", "b", "c")), a, b


def losses(model: nn.Module, path: torch.Tensor, split: data.Split) -> torch.Tensor:
    like = sharpness.parameters_of(model)
    images = data.to_float(split.images).double()
    loss = sharpness.loss_of(model, images, split.labels)
    return torch.stack([loss(vector.unflatten(w, like)) for w in path])


@pytest.mark.parametrize("steps", [2, 3, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_are_met_exactly(steps, dtype):
    a, bend, b = (100 * points(3)).to(dtype)
    for path in (paths.line(a, b, steps), paths.bezier(a, bend, b, steps)):
        assert path.shape == (steps, P)
        assert path.dtype == dtype
        assert torch.equal(path[0], a)
        assert torch.equal(path[-1], b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_between_equal_ends_a_line_stands_still_exactly(dtype):
    """No rounding of (1 - t) a + t a, so that copies are no two networks."""
    a = (100 * points(1, 1000)[0]).to(dtype)
    for steps in range(2, 40):
        assert torch.equal(paths.line(a, a.clone(), steps), a.expand(steps, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_level_path_has_no_barrier_and_no_path_has_less(dtype):
    """Exactly: the ends are on their own line, whatever rounding does between."""
    heights = points(1, 200)[0].to(dtype)
    for steps in range(3, 40):
        for height in heights[:20]:
            assert paths.barrier(height.expand(steps)) == 0
        assert paths.barrier(heights[:steps]) >= 0
        valley = heights[:steps].clone()
        valley[1:-1] -= 20
        assert paths.barrier(valley) == 0


def test_a_line_has_equal_steps():
    a, b = points(2)
    path = paths.line(a, b, 5)
    torch.testing.assert_close(path.diff(dim=0), ((b - a) / 4).expand(4, P))


def test_bezier_equals_de_casteljaus_construction():
    """A point on the line between points on the two lines a - bend - b."""
    a, bend, b = points(3)
    first, second = paths.line(a, bend, 9), paths.line(bend, b, 9)
    t = torch.arange(9).double()[:, None] / 8
    torch.testing.assert_close(
        paths.bezier(a, bend, b, 9), first + t * (second - first)
    )


def test_bezier_with_its_bend_in_the_middle_is_the_line():
    a, b = points(2)
    straight = paths.bezier(a, (a + b) / 2, b, 6)
    torch.testing.assert_close(straight, paths.line(a, b, 6))


def test_bezier_turned_round_is_the_same_curve():
    a, bend, b = points(3)
    back = paths.bezier(b, bend, a, 8).flip(0)
    torch.testing.assert_close(paths.bezier(a, bend, b, 8), back)


def test_barrier_by_hand():
    """At t = 1/4 the line between 1 and 3 is at 1.5, at 3/4 at 2.5."""
    assert paths.barrier(torch.tensor([1.0, 4.5, 2.0, 5.0, 3.0])) == 3


def test_a_convex_loss_has_no_barrier():
    t = torch.linspace(-1, 2, 31, dtype=torch.float64)
    assert paths.barrier(t**2) == 0
    assert paths.barrier(3 - 2 * t) == pytest.approx(0, abs=1e-12)


def test_a_barrier_is_the_same_from_both_ends_and_on_any_slope():
    height = points(1, 9)[0]
    slope = torch.linspace(5, -2, 9, dtype=torch.float64)
    for other in (height.flip(0), height + slope):
        torch.testing.assert_close(paths.barrier(other), paths.barrier(height))


def test_the_fitted_curve_goes_round_the_hill(ring_bend):
    """The straight line passes the top, ||w|| = 0, at cos 70 degrees = 0.34."""
    a, b = RING_ENDS
    line = ring_loss(paths.line(a, b, 101))
    curve = ring_loss(paths.bezier(a, ring_bend, b, 101))
    height = (math.cos(math.radians(70)) ** 2 - 1) ** 2
    assert paths.barrier(line) == pytest.approx(math.log((1 + math.exp(height)) / 2))
    assert paths.barrier(curve) < 0.02 * paths.barrier(line)
    torch.testing.assert_close(line, losses(Ring(), paths.line(a, b, 101), blank(1)))


def test_the_fitted_bend_is_the_best_one(ring_bend):
    """By symmetry it is (c, 0); c has the lowest of 2001 mean losses on the curve."""
    a, b = RING_ENDS
    candidates = torch.linspace(0, 4, 2001, dtype=torch.float64)
    t = ((torch.arange(500) + 0.5) / 500).double()[:, None]  # the midpoint rule
    ends = (1 - t) ** 2 * a + t**2 * b
    pull = torch.tensor([1.0, 0.0]).double() * 2 * t * (1 - t)
    means = torch.stack([ring_loss(ends + c * pull).mean() for c in candidates])
    best = candidates[means.argmin()]
    expected = torch.stack([best, torch.zeros_like(best)])
    torch.testing.assert_close(ring_bend, expected, rtol=0, atol=0.03)


def test_the_fitted_curve_has_a_lower_mean_loss_than_the_line():
    split, a, b = small_task()
    bend = paths.fit_bend(Noisy(), a, b, split, epochs=40, batch_size=20, lr=0.05)
    line = losses(Noisy(), paths.line(a, b, 21), split).mean()
    curve = losses(Noisy(), paths.bezier(a, bend, b, 21), split).mean()
    assert curve < 0.9 * line


def test_the_seed_decides_the_fit():
    split, a, b = small_task()
    one, same, other = (
        paths.fit_bend(Noisy(), a, b, split, epochs=2, batch_size=20, seed=s)
        for s in (3, 3, 4)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_dropout_is_off_and_the_model_stays_as_it_is():
    split, a, b = small_task()
    model = Noisy(rate=0.5)
    model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: w.clone() for name, w in model.state_dict().items()}
    ends = a.clone(), b.clone()
    bend = paths.fit_bend(model, a, b, split, epochs=2)
    assert torch.equal(bend, paths.fit_bend(Noisy(), a, b, split, epochs=2))
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(w, before[n]) for n, w in model.state_dict().items())
    assert all(w.grad is None for w in model.parameters())
    assert torch.equal(a, ends[0])
    assert torch.equal(b, ends[1])
    assert not bend.requires_grad


def test_the_images_layout_changes_the_fit_by_rounding_only(monkeypatch):
    """Channels last is faster; the reference converts the images as they come."""
    split, _, _ = small_task()
    images = split.images.expand(-1, 3, -1, -1).roll(1, 1)
    split = data.Split(images, split.labels, split.classes)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    a, b = 0.5 * points(2, sum(p.numel() for p in net.parameters()))
    settings = {"epochs": 3, "batch_size": 20}
    found = paths.fit_bend(net.double(), a, b, split, **settings)
    monkeypatch.setattr(
        paths, "as_input", lambda images, like: data.to_float(images).to(like)
    )
    expected = paths.fit_bend(net, a, b, split, **settings)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_images_pass_with_channels_last():
    seen = []

    class Watching(Noisy):
        def forward(self, images):
            seen.append(images.stride(1) == 1)
            return super().forward(images)

    split, a, b = small_task()
    paths.fit_bend(Watching(), a, b, split, epochs=1, batch_size=20)
    assert seen == [True] * 3


def test_the_bend_has_the_models_dtype():
    split, a, b = small_task()
    assert paths.fit_bend(Noisy(), a, b, split, epochs=1).dtype == torch.float64
    bend = paths.fit_bend(Noisy().float(), a, b, split, epochs=1)
    assert bend.dtype == torch.float32


def test_a_batch_larger_than_the_data_is_one_step():
    split, a, b = small_task()
    whole, larger = (
        paths.fit_bend(Noisy(), a, b, split, epochs=1, batch_size=size, lr=0.01)
        for size in (60, 10_000)
    )
    assert torch.equal(whole, larger)
    # Adam's first step is lr for each weight, but for its epsilon of 1e-8.
    step = (whole - (a + b) / 2).abs()
    assert float(step.max()) == pytest.approx(0.01, rel=1e-4)
    assert float(step.median()) == pytest.approx(0.01, rel=1e-2)


@pytest.mark.parametrize("steps", [1, 0, -3])
def test_a_path_of_fewer_than_two_steps_is_refused(steps):
    a, bend, b = points(3)
    message = f"two ends, so steps must be >= 2, got {steps}"
    with pytest.raises(ValueError, match=message):
        paths.line(a, b, steps)
    with pytest.raises(ValueError, match=message):
        paths.bezier(a, bend, b, steps)


@pytest.mark.usefixtures("unchecked")
def test_points_of_different_sizes_are_refused():
    a, bend, b = points(3)
    with pytest.raises(ValueError, match=r"b is \(6,\), expected \(7,\); write stack"):
        paths.line(a, b[1:], 3)
    with pytest.raises(ValueError, match=r"bend is \(1, 7\), expected \(7,\)"):
        paths.bezier(a, bend[None], b, 3)
    with pytest.raises(ValueError, match=r"the first point is \(3, 7\)"):
        paths.line(points(3), points(3), 3)


@pytest.mark.usefixtures("unchecked")
def test_points_of_another_network_are_refused():
    for a, b, name in ((0, 1, "a"), (1, 0, "b")):
        ends = [RING_ENDS[0], points(1)[0]]
        with pytest.raises(ValueError, match=rf"{name} is \(7,\), expected \(2,\)"):
            paths.fit_bend(Ring(), ends[1 - a], ends[1 - b], blank(3))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], r"losses of 3 or more points.*got shape \(2,\); take more"),
        ([[1.0, 2.0, 3.0]], r"as a vector, got shape \(1, 3\)"),
        ([1.0, math.nan, 2.0], "losses must be finite.*has diverged"),
        ([math.inf, 1.0, 2.0], "losses must be finite.*has diverged"),
    ],
)
def test_losses_without_a_barrier_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        paths.barrier(torch.tensor(values))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(6), nn.BatchNorm2d(1)])
def test_a_model_with_batch_norm_is_refused(layer):
    model = nn.Sequential(Noisy(), layer)
    a, b = points(2)
    with pytest.raises(ValueError, match=r"the model has BatchNorm.*norm='group'"):
        paths.fit_bend(model, a, b, blank(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"epochs": 0},
            "epochs must be a whole number from 1 on, got 0; write epochs=",
        ),
        ({"epochs": 2.0}, "epochs must be a whole number from 1 on, got 2.0; write"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 on, got 0; wri"),
        ({"batch_size": 2.5}, "batch_size must be a whole number from 1 on, got 2.5"),
        ({"batch_size": "9"}, "batch_size must be a whole number from 1 on, got '9'"),
        ({"lr": 0.0}, r"lr must be in \(0, 1\], got 0.0: a step of Adam.*; 0.01 is us"),
        ({"lr": math.inf}, "got inf"),
        ({"lr": math.nan}, "got nan"),
        ({"lr": 1e40}, r"got 1e\+40"),
        ({"lr": "0.1"}, "got '0.1'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_fit_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        paths.fit_bend(Ring(), *RING_ENDS, blank(3), **settings)


def test_a_fit_without_images_is_refused():
    with pytest.raises(ValueError, match="train has no images; give at least one"):
        paths.fit_bend(Ring(), *RING_ENDS, blank(0))


def test_a_fit_that_diverges_says_so():
    ends = math.inf * RING_ENDS[0], RING_ENDS[1]
    with pytest.raises(ValueError, match=r"diverged.*lr=0\.01; write a smaller lr"):
        paths.fit_bend(Ring(), *ends, blank(3))
