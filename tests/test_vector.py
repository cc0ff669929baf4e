"""Parameters as one vector: an inverse pair, and what is refused."""

import pytest
import torch

from sbtutor import sharpness, vector


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def weights(dtype=torch.float64):
    draw = seeded()
    shapes = {"matrix": (4, 3), "number": (), "kernel": (2, 1, 3, 3), "none": (0,)}
    return {
        name: torch.randn(shape, generator=draw, dtype=dtype)
        for name, shape in shapes.items()
    }


def flat(params):
    return torch.cat([p.flatten() for p in params.values()])


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flatten_and_unflatten_are_inverses(dtype):
    params = weights(dtype)
    w = vector.flatten(params)
    assert w.shape == (12 + 1 + 18,)
    assert w.dtype == dtype
    assert torch.equal(w, flat(params))
    assert same(vector.unflatten(w, params), params)
    v = torch.randn(31, generator=seeded(1), dtype=dtype)
    assert torch.equal(vector.flatten(vector.unflatten(v, params)), v)


def test_flatten_copies_and_cuts_the_graph_while_unflatten_shares():
    params = {name: p.requires_grad_() for name, p in weights().items()}
    w = vector.flatten(params)
    assert not w.requires_grad
    vector.unflatten(w, params)["number"].fill_(7)
    assert w[12] == 7
    assert params["number"] != 7


def test_loss_and_gradient_of_a_quadratic():
    """L = w'w / 2 + c'w: gradient w + c, at the point and not at the params."""
    params = weights()
    c = torch.randn(31, generator=seeded(1), dtype=torch.float64)
    point = torch.randn(31, generator=seeded(2), dtype=torch.float64)
    loss, slope = vector.loss_and_gradient(
        lambda p: flat(p).square().sum() / 2 + c @ flat(p), point, params
    )
    torch.testing.assert_close(loss, point @ point / 2 + c @ point)
    torch.testing.assert_close(slope, point + c)
    assert not loss.requires_grad
    assert not slope.requires_grad
    assert not point.requires_grad


MEASURES = {
    "sam": lambda f, w: sharpness.sam_sharpness(f, w, 0.1),
    "worst": lambda f, w: sharpness.worst_case_sharpness(f, w, 0.1),
    "average": lambda f, w: sharpness.average_sharpness(f, w, 0.1, 2, seeded()),
    "trace": lambda f, w: sharpness.hessian_trace(f, w, 2, seeded()),
    "eigenvalue": sharpness.hessian_top_eigenvalue,
    "eigenpair": sharpness.hessian_top_eigenpair,
}
WITH_GRADIENT = sorted(set(MEASURES) - {"average"})


@pytest.mark.parametrize("measure", MEASURES)
def test_no_parameters_is_refused(measure):
    message = r"got dict without any; pass sharpness\.parameters_of\(model\)"
    with pytest.raises(ValueError, match=message):
        MEASURES[measure](lambda p: torch.tensor(1.0), {})


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_parameters_that_are_not_real_numbers_are_refused(measure, dtype):
    params = {"fine": torch.ones(2), "count": torch.ones(3).to(dtype)}
    message = f"parameter 'count' holds {dtype}, which has no gradient; leave it out"
    with pytest.raises(ValueError, match=message):
        MEASURES[measure](lambda p: p["fine"].sum(), params)


@pytest.mark.parametrize("measure", WITH_GRADIENT)
def test_parameters_on_which_the_loss_does_not_depend_are_named(measure):
    params = {"used": torch.ones(2), "idle": torch.ones(3), "lazy": torch.ones(1)}
    message = "does not depend on 'idle', 'lazy', which therefore .* leave it out"
    with pytest.raises(ValueError, match=message):
        MEASURES[measure](lambda p: p["used"].square().sum(), params)


@pytest.mark.parametrize("measure", WITH_GRADIENT)
@pytest.mark.parametrize("kind", ["constant", "detached", "no_grad"])
def test_a_loss_that_depends_on_no_parameter_is_refused(measure, kind):
    @torch.set_grad_enabled(kind != "no_grad")
    def loss_fn(p):
        if kind == "constant":
            return torch.tensor(2.0)
        return (flat(p).detach() if kind == "detached" else flat(p)).square().sum()

    message = r"loss does not depend on params.* outside torch\.no_grad\(\)"
    with pytest.raises(ValueError, match=message):
        MEASURES[measure](loss_fn, {"a": torch.ones(3)})


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shape", [(31,), (1,), (31, 1)])
def test_a_loss_that_is_not_a_scalar_is_refused(unchecked, measure, shape):
    def loss_fn(p):
        values = flat(p).square()
        return (values.sum() if shape == (1,) else values).reshape(shape)

    shown = str(shape).replace("(", r"\(").replace(")", r"\)")
    message = f"must return a scalar, got shape {shown}; take the mean"
    with pytest.raises(ValueError, match=message):
        MEASURES[measure](loss_fn, weights())


@pytest.mark.parametrize("measure", MEASURES)
def test_measuring_leaves_the_parameters_as_they_are(measure):
    params = {name: p.requires_grad_() for name, p in weights().items()}
    before = {name: p.detach().clone() for name, p in params.items()}
    MEASURES[measure](lambda p: flat(p).pow(4).sum(), params)
    assert same(before, params)
    assert all(p.requires_grad and p.grad is None for p in params.values())


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_do_not_touch_global_randomness(measure):
    before = torch.random.get_rng_state()
    MEASURES[measure](lambda p: flat(p).pow(4).sum(), weights())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_order_and_the_shapes_of_parameters_do_not_matter(measure):
    """The same numbers as one vector give the same value (random ones draw alike)."""
    w = weights()
    loss = lambda p: flat(p).pow(4).sum() + flat(p).sum()  # noqa: E731
    found = [MEASURES[measure](loss, params) for params in (w, {"all": flat(w)})]
    first = [f[0] if isinstance(f, tuple) else f for f in found]
    torch.testing.assert_close(first[0], first[1])


@pytest.mark.parametrize("measure", MEASURES)
def test_half_precision_is_refused(measure):
    half = {"a": torch.ones(3, dtype=torch.bfloat16)}
    with pytest.raises(
        ValueError, match=r"'a' holds torch\.bfloat16.*with \.float\(\)"
    ):
        MEASURES[measure](lambda p: p["a"].square().sum(), half)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_loss_that_is_a_plain_number_is_refused(measure, unchecked):
    with pytest.raises(ValueError, match=r"must return a tensor, got float;.*\.item"):
        MEASURES[measure](lambda p: p["a"].square().sum().item(), {"a": torch.ones(3)})
