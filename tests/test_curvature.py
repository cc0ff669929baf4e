"""The Hessian's trace and top eigenvalue against closed forms and dense Hessians."""

import pytest
import torch
from torch import nn
from torch.func import jacrev
from torch.nn import functional as F

from sbtutor import curvature, models, sharpness, vector
from sbtutor.config import ModelConfig


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def weights(sizes=(12, 5), dtype=torch.float64):
    draw = seeded()
    return {
        name: torch.randn(size, generator=draw, dtype=dtype)
        for name, size in zip("abc", sizes)
    }


def flat(params):
    return torch.cat([p.flatten() for p in params.values()])


def quadratic(matrix):
    """w'Aw / 2, whose Hessian is the symmetric A."""
    return lambda p: flat(p) @ matrix @ flat(p) / 2


def symmetric(eigenvalues, seed=1):
    """A matrix with these eigenvalues and random eigenvectors (its columns')."""
    h = torch.as_tensor(eigenvalues, dtype=torch.float64)
    root = torch.randn(len(h), len(h), generator=seeded(seed), dtype=torch.float64)
    basis = torch.linalg.qr(root)[0]
    return basis @ torch.diag(h) @ basis.T, basis


def dense_net(activation=nn.Tanh):
    """A three-layer network on a few samples: loss function and parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(4, 5), activation(), nn.Linear(5, 4), activation()]
        model = nn.Sequential(*layers, nn.Linear(4, 3)).double()
    x = torch.randn(8, 4, generator=seeded(), dtype=torch.float64)
    y = torch.arange(8) % 3
    return sharpness.loss_of(model, x, y), sharpness.parameters_of(model)


def dense_hessian(loss_fn, params):
    """All second derivatives at once, P by P, by torch.func."""
    return jacrev(jacrev(lambda w: loss_fn(vector.unflatten(w, params))))(flat(params))


def image_case(name):
    model = models.build(ModelConfig(name=name, width=2), (2, 8, 8), 3, 0)
    images = torch.rand(20, 2, 8, 8, generator=seeded(), dtype=torch.float64)
    model.double().train()(images)  # moves the running statistics
    labels = torch.randint(3, (7,), generator=seeded(1))
    loss_fn = sharpness.loss_of(model.eval(), images[:7], labels)
    return loss_fn, sharpness.parameters_of(model)


def test_hessian_product_is_the_dense_hessian_times_v():
    loss_fn, params = dense_net()
    dense = dense_hessian(loss_fn, params)
    product = vector.hessian_product(loss_fn, params)
    for seed in range(3):
        v = torch.randn(len(dense), generator=seeded(seed), dtype=torch.float64)
        expected = dense @ v
        assert (product(v) - expected).norm() < 1e-9 * expected.norm()


def test_hessian_product_of_a_linear_loss_is_zero():
    product = vector.hessian_product(lambda p: 3 * flat(p).sum(), weights())
    assert torch.equal(product(torch.ones(17).double()), torch.zeros(17).double())


def test_hessian_product_of_a_loss_linear_in_some_parameters_only():
    """L = a'a/2 + sum b: H = I on a, 0 on b; and sum(a) sum(b) has no diagonal."""
    v = torch.arange(17.0).double()
    half = vector.hessian_product(
        lambda p: p["a"].square().sum() / 2 + p["b"].sum(), weights()
    )
    assert torch.equal(half(v), torch.cat([v[:12], 0 * v[12:]]))
    cross = vector.hessian_product(lambda p: p["a"].sum() * p["b"].sum(), weights())
    expected = torch.cat([v[12:].sum().expand(12), v[:12].sum().expand(5)])
    assert torch.equal(cross(v), expected)


def test_hessian_trace_of_a_diagonal_quadratic_is_exact_for_each_probe():
    """v'Dv = sum d_i v_i^2 = tr D when v_i = +-1, so the error is 0."""
    d = torch.linspace(-1, 5, 17, dtype=torch.float64)
    trace, error = sharpness.hessian_trace(
        lambda p: (d * flat(p).square()).sum() / 2, weights(), 2, seeded()
    )
    torch.testing.assert_close(trace, d.sum())
    assert error == pytest.approx(0, abs=1e-12)


def test_hessian_traces_variance_is_twice_the_squares_off_the_diagonal():
    """Var v'Av = 2 sum_{i != j} a_ij^2; the standard error is that over the probes."""
    root = torch.randn(17, 17, generator=seeded(1), dtype=torch.float64)
    a, probes = root + root.T, 4000
    trace, error = sharpness.hessian_trace(quadratic(a), weights(), probes, seeded())
    off = a - a.diag().diag()
    expected = (2 * off.square().sum() / probes).sqrt()
    assert error == pytest.approx(float(expected), rel=0.1)
    assert abs(trace - a.trace()) < 4 * expected


@pytest.mark.parametrize("name", ["dense", "mlp", "small_cnn"])
def test_hessian_trace_is_the_dense_hessians(name):
    loss_fn, params = dense_net() if name == "dense" else image_case(name)
    exact = dense_hessian(loss_fn, params).trace()
    estimate, error = sharpness.hessian_trace(loss_fn, params, 400, seeded())
    assert abs(estimate - exact) < 4 * error
    assert error < 0.5 * abs(exact)


def test_hessian_trace_of_a_linear_loss_is_zero():
    found = sharpness.hessian_trace(lambda p: flat(p).sum(), weights(), 3, seeded())
    assert [value.item() for value in found] == [0, 0]


@pytest.fixture
def products(monkeypatch):
    """A list with an entry for each product H v."""
    made, real = [], vector.hessian_product

    def hessian_product(loss_fn, params):
        product = real(loss_fn, params)
        return lambda v: made.append(v) or product(v)

    monkeypatch.setattr(vector, "hessian_product", hessian_product)
    return made


def test_relative_error_stops_the_draws_as_soon_as_it_is_reached(products):
    """Probes until s / sqrt(n) <= 0.05 |mean|, no fewer than eight, the same ones."""
    a, _ = symmetric(torch.linspace(1, 8, 17))
    mean, error = sharpness.hessian_trace(
        quadratic(a), weights(), 1000, seeded(), relative_error=0.03
    )
    drawn = torch.stack([v @ a @ v for v in products])
    count = len(drawn)
    assert 8 < count < 1000
    assert error <= 0.03 * mean.abs()
    torch.testing.assert_close(mean, drawn.mean())
    torch.testing.assert_close(error, drawn.std() / count**0.5)
    for n in range(8, count):  # not before
        assert drawn[:n].std() / n**0.5 > 0.03 * drawn[:n].mean()
    again = sharpness.hessian_trace(quadratic(a), weights(), count, seeded())
    torch.testing.assert_close(again, (mean, error))


def test_relative_error_stops_at_eight_probes_or_at_the_cap(products):
    a, _ = symmetric(torch.linspace(1, 8, 17))
    for wanted, cap, count in ((10.0, 100, 8), (1e-9, 20, 20), (10.0, 5, 5)):
        products.clear()
        sharpness.hessian_trace(quadratic(a), weights(), cap, seeded(), wanted)
        assert len(products) == count


def test_hessian_traces_generator_decides():
    a, _ = symmetric(torch.linspace(1, 8, 17))
    one, same, other = (
        sharpness.hessian_trace(quadratic(a), weights(), 3, seeded(s))[0]
        for s in (1, 1, 2)
    )
    assert one == same != other


def test_one_probe_has_no_standard_error():
    with pytest.raises(ValueError, match="at least 2 probes, got probes=1"):
        sharpness.hessian_trace(lambda p: flat(p).sum(), weights(), 1, seeded())


@pytest.mark.parametrize("wanted", [0.0, -0.1, float("nan")])
def test_a_relative_error_that_no_number_of_probes_reaches(wanted):
    with pytest.raises(ValueError, match=f"must be > 0, got {wanted}: no finite"):
        sharpness.hessian_trace(
            lambda p: flat(p).sum(), weights(), 2, seeded(), relative_error=wanted
        )


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_top_eigenvalue_is_the_dense_hessians(activation):
    loss_fn, params = dense_net(activation)
    exact = torch.linalg.eigvalsh(dense_hessian(loss_fn, params))[-1]
    found = sharpness.hessian_top_eigenvalue(loss_fn, params)
    assert found == pytest.approx(exact.item(), rel=1e-9)


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
def test_top_eigenvalue_of_an_image_network(name):
    loss_fn, params = image_case(name)
    exact = torch.linalg.eigvalsh(dense_hessian(loss_fn, params))[-1]
    found = sharpness.hessian_top_eigenvalue(loss_fn, params)
    assert found == pytest.approx(exact.item(), rel=1e-9)


SPECTRA = {
    "usual": [7.0, 4.0, 2.0, *[0.1] * 7],
    "negative outweighs": [-50.0, 3.0, 1.0, *[0.0] * 7],
    "all negative": [-1.0, -5.0, -9.0, *[-20.0] * 7],
    "two equal tops": [6.0, 6.0, -2.0, *[1.0] * 7],
    "all equal": [2.5] * 10,
    "top is zero": [0.0, -1.0, -2.0, *[-3.0] * 7],
    "one direction": [4.0, *[0.0] * 9],
}


@pytest.mark.parametrize("sizes", [(4, 6), (10, 20)], ids=["small", "large"])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_top_eigenpair_of_a_known_spectrum(spectrum, sizes):
    """The largest, not that of largest modulus; P above and below 20; v'Hv = value."""
    h = SPECTRA[spectrum]
    h = h + [h[-1]] * (sum(sizes) - len(h))
    a, _ = symmetric(h)
    params = weights(sizes)
    pair = sharpness.hessian_top_eigenpair(quadratic(a), params)
    scale = max(map(abs, h))
    assert pair.value == pytest.approx(max(h), abs=1e-9 * scale)
    v = flat(pair.vector)
    assert {k: x.shape for k, x in pair.vector.items()} == {
        k: x.shape for k, x in params.items()
    }
    assert v.norm() == pytest.approx(1, rel=1e-12)
    assert v @ a @ v == pytest.approx(max(h), abs=1e-9 * scale)
    residual = (a @ v - pair.value * v).norm()
    assert pair.residual == pytest.approx(residual.item(), abs=1e-12 * scale)
    assert residual < 1e-7 * scale
    alone = sharpness.hessian_top_eigenvalue(quadratic(a), params)
    assert alone == pair.value


def test_top_eigenpairs_vector_has_the_parameters_shapes():
    loss_fn, params = dense_net()
    value, direction, _ = sharpness.hessian_top_eigenpair(loss_fn, params)
    assert {k: v.shape for k, v in direction.items()} == {
        k: p.shape for k, p in params.items()
    }
    a, h = 1e-3, flat(direction)
    w = flat(params)

    def at(t):
        return loss_fn(vector.unflatten(w + t * h, params))

    bend = (at(a) - 2 * at(0) + at(-a)) / a**2  # of the loss along the eigenvector
    assert value == pytest.approx(bend.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("tolerance", "bound"), [(0.3, 0.3), (1e-2, 1e-2), (1e-10, 1e-10)]
)
def test_the_residual_keeps_the_tolerance_and_bounds_the_error(tolerance, bound):
    """Some eigenvalue lies within the residual; the error is of its square's order."""
    h = torch.linspace(0, 10, 60, dtype=torch.float64)
    a, _ = symmetric(h)
    pair = sharpness.hessian_top_eigenpair(quadratic(a), weights((50, 10)), tolerance)
    assert pair.residual <= 1.01 * bound * pair.value
    assert (h - pair.value).abs().min() <= pair.residual + 1e-12
    assert pair.value <= 10 + 1e-12  # v'Hv of a unit vector is never above


def test_top_eigenvalue_in_single_precision():
    a, _ = symmetric([9.0, 5.0, *[1.0] * 28])
    pair = sharpness.hessian_top_eigenpair(
        quadratic(a.float()), weights((10, 20), torch.float32)
    )
    assert pair.value.dtype == torch.float32
    assert all(v.dtype == torch.float32 for v in pair.vector.values())
    assert pair.value == pytest.approx(9, rel=1e-5)
    assert pair.residual < 1e-2


def test_top_eigenvalue_is_the_same_each_time():
    loss_fn, params = dense_net()
    torch.manual_seed(1)
    one = sharpness.hessian_top_eigenvalue(loss_fn, params)
    torch.manual_seed(2)
    assert torch.equal(one, sharpness.hessian_top_eigenvalue(loss_fn, params))


@pytest.mark.parametrize("sizes", [(1,), (20,), (21,), (40, 3)])
@pytest.mark.parametrize("kind", ["linear", "flat"])
def test_a_loss_without_curvature_has_top_eigenvalue_zero(sizes, kind):
    def loss_fn(p):
        return flat(p).sum() if kind == "linear" else 0 * flat(p).pow(3).sum()

    pair = sharpness.hessian_top_eigenpair(loss_fn, weights(sizes))
    assert pair.value == pair.residual == 0
    assert flat(pair.vector).norm() == pytest.approx(1)


@pytest.mark.parametrize("size", [20, 21])
def test_top_eigenvalue_around_the_size_from_which_lanczos_is_used(size):
    a, _ = symmetric(torch.arange(size))
    found = sharpness.hessian_top_eigenvalue(quadratic(a), weights((size,)))
    assert found == pytest.approx(size - 1, rel=1e-9)


def test_the_constant_direction_may_be_flat():
    """softmax(b) does not change when all of b shift: H 1 = 0, but H is not 0."""
    labels = torch.arange(30) % 3
    loss = lambda p: F.cross_entropy(flat(p).expand(30, -1), labels)  # noqa: E731
    value = sharpness.hessian_top_eigenvalue(loss, {"b": torch.zeros(24).double()})
    assert value == pytest.approx(1 / 24)  # diag(p) - pp', p = 1/24


@pytest.mark.parametrize("size", [5, 30])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_curvature_that_is_not_finite_is_refused(size, value):
    with pytest.raises(ValueError, match=r"not finite .*NaN or infinity.*diverged"):
        sharpness.hessian_top_eigenvalue(
            lambda p: value * flat(p).square().sum(), weights((size,))
        )


def test_no_convergence_is_an_arithmetic_error(monkeypatch):
    def eigsh(*args, **kwargs):
        return real(*args, **kwargs, maxiter=1, ncv=2)

    real = curvature.linalg.eigsh
    monkeypatch.setattr(curvature.linalg, "eigsh", eigsh)
    a, _ = symmetric(torch.linspace(0, 1, 300))
    message = r"did not converge to tolerance=1e-12 \(.*\); pass a larger tolerance"
    with pytest.raises(ArithmeticError, match=message):
        sharpness.hessian_top_eigenvalue(quadratic(a), weights((300,)), 1e-12)


def test_a_loss_per_sample_is_refused(unchecked):
    message = r"must return a scalar, got shape \(17,\); take the mean"
    for measure in (
        lambda f, w: sharpness.hessian_trace(f, w, 2, seeded()),
        sharpness.hessian_top_eigenpair,
        sharpness.hessian_top_eigenvalue,
    ):
        with pytest.raises(ValueError, match=message):
            measure(lambda p: flat(p).square(), weights())
