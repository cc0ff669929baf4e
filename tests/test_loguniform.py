"""The log-uniform distribution has the moments and the entropy that are stated."""

import math

import pytest
import torch

from sbtutor import loguniform

RANGES = [(1e-3, 1e3), (0.1, 100.0), (1e-5, 0.2), (0.5, 0.500001)]


def logs(*bounds, dtype=torch.float64):
    return [torch.tensor(b, dtype=torch.float64).log().to(dtype) for b in bounds]


def uniform(count):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("a", "b"), RANGES)
def test_a_sample_is_the_inverse_of_the_distribution_function(a, b):
    """P(lambda < x) = log(x / a) / log(b / a): at u the sample's value is u."""
    u = uniform(1000)
    x = loguniform.sample(*logs(a, b), u).exp()
    assert (x >= a * (1 - 1e-15)).all()
    assert (x <= b * (1 + 1e-15)).all()
    torch.testing.assert_close((x / a).log() / math.log(b / a), u, atol=1e-9, rtol=0)


def test_leading_axes_of_u_are_draws():
    low, high = logs([0.1, 1.0, 2.0], [1.0, 5.0, 3.0])
    draws = loguniform.sample(low, high, uniform(12).view(4, 3))
    assert draws.shape == (4, 3)
    torch.testing.assert_close(draws[2, 1], low[1] + uniform(12)[7] * (high - low)[1])


@pytest.mark.parametrize("u", [0.0, 0.3, 0.9])
def test_gradients_reach_the_bounds(u):
    """d lambda / d log a = (1 - u) lambda, d lambda / d log b = u lambda."""
    low, high = (t.requires_grad_() for t in logs(0.1, 100.0))
    value = loguniform.sample(low, high, torch.tensor(u, dtype=low.dtype)).exp()
    found = torch.autograd.grad(value, (low, high))
    torch.testing.assert_close(found, ((1 - u) * value, u * value))


def density(a, b, points=200_001):
    """A grid on [a, b], and the density 1 / (x log(b / a)) there."""
    x = torch.linspace(a, b, points, dtype=torch.float64)
    return x, 1 / (x * math.log(b / a))


@pytest.mark.parametrize(("a", "b"), [(0.1, 5.0), (1.0, 2.0), (0.01, 0.2)])
def test_mean_and_entropy_are_the_integrals_over_the_density(a, b):
    x, p = density(a, b)
    assert torch.trapezoid(p, x).item() == pytest.approx(1, rel=1e-5)
    mean = torch.trapezoid(x * p, x)
    torch.testing.assert_close(loguniform.mean(*logs(a, b)), mean, rtol=1e-5, atol=0)
    entropy = -torch.trapezoid(p * p.log(), x)
    found = loguniform.entropy(*logs(a, b))
    torch.testing.assert_close(found, entropy, rtol=1e-4, atol=1e-5)


def test_the_mean_of_the_papers_l2_range_is_14_46():
    """L2 in [0.1, 100]: the centre at which the published code starts."""
    assert loguniform.mean(*logs(0.1, 100.0)).item() == pytest.approx(14.46, abs=0.005)
    assert math.sqrt(0.1 * 100) < 14.46  # the median


def test_the_entropy_of_a_range_from_1_to_e_is_a_half():
    """(0 + 1) / 2 + log 1."""
    zero, one = torch.zeros(()), torch.ones(())
    assert loguniform.entropy(zero, one).item() == 0.5
    assert loguniform.entropy(zero, zero).item() == -math.inf


@pytest.mark.parametrize("width", [0, 1e-12, 1e-6, 0.99e-4, 1.01e-4, 1e-2, 1, 9])
@pytest.mark.parametrize(
    ("dtype", "value", "slope"),
    [(torch.float64, 1e-14, 1e-9), (torch.float32, 1e-6, 0.01)],
)
def test_the_mean_and_its_slope_are_exact_for_thin_ranges(width, dtype, value, slope):
    """a (e^w - 1) / w by its series, and the derivative by log b, term by term."""
    low = torch.tensor(0.7, dtype=dtype)
    high = (low + torch.tensor(width, dtype=dtype)).requires_grad_()
    w, a = (high.detach() - low).double().item(), math.exp(low.double().item())
    terms = range(60)
    mean = a * math.fsum(w**k / math.factorial(k + 1) for k in terms)
    by_high = a * math.fsum(k * w ** (k - 1) / math.factorial(k + 1) for k in terms[1:])
    found = loguniform.mean(low, high)
    assert found.item() == pytest.approx(mean, rel=value)
    assert torch.autograd.grad(found, high)[0].item() == pytest.approx(
        by_high, rel=slope
    )


LEAST, MOST = -7.0, 7.0
EPS = 7e-6  # 1e-6 of half the permitted width


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((-1.0, 2.0), (-1.0, 2.0)),  # within: left alone
        ((-9.0, 9.0), (LEAST, MOST)),
        ((3.0, 1.0), (3.0, 3.0 + EPS)),  # out of order: b gives way
        ((9.0, 9.0), (MOST - 2 * EPS, MOST)),
        ((9.0, -9.0), (MOST - 2 * EPS, MOST - EPS)),
        ((-9.0, -8.0), (LEAST, LEAST + EPS)),
    ],
)
def test_project_by_hand(given, expected, dtype):
    low, high, least, most = (
        torch.tensor(x, dtype=dtype) for x in (*given, LEAST, MOST)
    )
    found = loguniform.project(low, high, least, most)
    wanted = tuple(torch.tensor(x, dtype=dtype) for x in expected)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert found[0] < found[1]


def test_project_broadcasts_the_limits_and_twice_is_once():
    generator = torch.Generator().manual_seed(0)
    low, high = 20 * torch.rand(2, 50, 3, generator=generator).double() - 10
    least, most = torch.tensor([[-7.0, -3, 0], [7.0, -1, 0.5]]).double()
    once = loguniform.project(low, high, least, most)
    assert once[0].shape == (50, 3)
    assert (once[0] >= least).all()
    assert (once[1] <= most).all()
    assert (once[0] < once[1]).all()
    assert all(map(torch.equal, loguniform.project(*once, least, most), once))
