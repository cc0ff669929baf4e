"""Sharpness measures against closed forms, dense Hessians and per-sample loops."""

import jaxtyping
import pytest
import torch
from torch import nn
from torch.func import jacrev
from torch.nn import functional as F

from sbtutor import models, perturb, sharpness
from sbtutor.config import ModelConfig

NETWORKS = [
    ("mlp", "batch"),
    ("lenet", "batch"),
    *[(name, norm) for name in ("small_cnn", "resnet8") for norm in ("batch", "group")],
]


@pytest.fixture
def unchecked(monkeypatch):
    """Calls as users make them: without the tests' own check of annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def case(name="mlp", norm="batch", count=7, width=3):
    """A float64 network with statistics unlike the batch's own, images, labels."""
    model = models.build(
        ModelConfig(name=name, width=width, norm=norm), (2, 8, 8), 3, 0
    )
    generator = seeded()
    images = torch.rand(20, 2, 8, 8, generator=generator, dtype=torch.float64)
    model.double().train()(images)  # moves the running statistics
    labels = torch.randint(3, (count,), generator=generator)
    return model, images[:count], labels


def weights(seed=0, dtype=torch.float64):
    generator = seeded(seed)
    return {
        "a": torch.randn(4, 3, generator=generator, dtype=dtype),
        "b": torch.randn(5, generator=generator, dtype=dtype),
    }


def flat(params):
    return torch.cat([p.flatten() for p in params.values()])


@pytest.mark.parametrize("rho", [0.01, 0.1, 2.0])
def test_sam_sharpness_is_exact_on_an_isotropic_quadratic(rho):
    """L = k/2 ||w||^2 rises by k (rho ||w|| + rho^2 / 2) in the worst direction."""
    k, w = 3.0, weights()
    rise = sharpness.sam_sharpness(lambda p: k / 2 * flat(p).square().sum(), w, rho)
    length = perturb.norm(w)
    torch.testing.assert_close(rise, k * (rho * length + rho**2 / 2))


def test_sam_sharpness_on_a_general_quadratic_is_taylors_series():
    """L = w'Aw / 2: rise = rho ||g|| + rho^2 g'Ag / (2 ||g||^2), g = Aw."""
    root = torch.randn(17, 17, generator=seeded(1), dtype=torch.float64)
    a, w, rho = root @ root.T, weights(), 0.3
    rise = sharpness.sam_sharpness(lambda p: flat(p) @ a @ flat(p) / 2, w, rho)
    g = a @ flat(w)
    expected = rho * g.norm() + rho**2 * (g @ a @ g) / (2 * g @ g)
    torch.testing.assert_close(rise, expected)


def test_sam_sharpness_of_a_network_is_the_loss_difference():
    model, images, labels = case("small_cnn")
    model.eval()
    loss = F.cross_entropy(model(images), labels)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    length = torch.cat([s.flatten() for s in slopes]).norm()
    loss_fn = sharpness.loss_of(model, images, labels)
    ours = sharpness.sam_sharpness(loss_fn, sharpness.parameters_of(model), 0.2)
    with torch.no_grad():
        for p, s in zip(model.parameters(), slopes, strict=True):
            p += 0.2 * s / length
    torch.testing.assert_close(ours, F.cross_entropy(model(images), labels) - loss)


def test_hessian_trace_of_a_diagonal_quadratic_is_exact_for_each_probe():
    """v'Dv = sum d_i v_i^2 = tr D when v_i = +-1, so the error is 0."""
    w = weights()
    d = torch.linspace(-1, 5, 17, dtype=torch.float64)
    trace, error = sharpness.hessian_trace(
        lambda p: (d * flat(p).square()).sum() / 2, w, 2, seeded()
    )
    torch.testing.assert_close(trace, d.sum())
    assert error == pytest.approx(0, abs=1e-12)


def test_hessian_traces_variance_is_twice_the_squares_off_the_diagonal():
    """Var v'Av = 2 sum_{i != j} a_ij^2; the standard error is that over the probes."""
    root = torch.randn(17, 17, generator=seeded(1), dtype=torch.float64)
    a, probes = root + root.T, 4000
    trace, error = sharpness.hessian_trace(
        lambda p: flat(p) @ a @ flat(p) / 2, weights(), probes, seeded()
    )
    off = a - a.diag().diag()
    expected = (2 * off.square().sum() / probes).sqrt()
    assert error == pytest.approx(float(expected), rel=0.1)
    assert abs(trace - a.trace()) < 4 * expected


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
def test_hessian_trace_is_the_dense_hessians(name):
    model, images, labels = case(name, width=2)
    loss_fn = sharpness.loss_of(model.eval(), images, labels)
    params = sharpness.parameters_of(model)
    dense = jacrev(jacrev(loss_fn))(params)
    exact = sum(
        dense[k][k].reshape(p.numel(), p.numel()).trace() for k, p in params.items()
    )
    estimate, error = sharpness.hessian_trace(loss_fn, params, 400, seeded())
    assert abs(estimate - exact) < 4 * error
    assert error < 0.5 * abs(exact)


@pytest.mark.parametrize("measure", ["sam", "trace"])
def test_measuring_changes_neither_weights_nor_grad_fields(measure):
    model, images, labels = case("resnet8")
    before = {k: v.clone() for k, v in model.eval().state_dict().items()}
    loss_fn = sharpness.loss_of(model, images, labels)
    params = sharpness.parameters_of(model)
    if measure == "sam":
        sharpness.sam_sharpness(loss_fn, params, 0.1)
    else:
        sharpness.hessian_trace(loss_fn, params, 2, seeded())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("name", "norm"), NETWORKS)
def test_fisher_trace_is_the_per_sample_loops(name, norm):
    model, images, labels = case(name, norm)
    ours = sharpness.fisher_trace(model, images, labels, batch_size=3)
    model.eval()
    loop = []
    for image, label in zip(images, labels, strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        loop.append(sum(p.grad.square().sum() for p in model.parameters()))
    torch.testing.assert_close(ours, torch.stack(loop), rtol=1e-10, atol=0)


def test_fisher_trace_of_logistic_regression():
    """||p - onehot||^2 (||x||^2 + 1) for logits Wx + b."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).double()
    x = torch.randn(5, 2, 2, 2, generator=seeded(), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 1, 0])
    error = model(x).softmax(1) - F.one_hot(labels, 3)
    expected = error.square().sum(1) * (x.flatten(1).square().sum(1) + 1)
    torch.testing.assert_close(sharpness.fisher_trace(model, x, labels), expected)


def test_fisher_trace_knows_parameters_that_are_single_numbers():
    """logits = t z, t a number: s = ((p - onehot)' z)^2."""

    class Temperature(nn.Module):
        def __init__(self):
            super().__init__()
            self.t = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

        def forward(self, x):
            return self.t * x.flatten(1)

    z = torch.randn(4, 3, 1, 1, generator=seeded(), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])
    error = (1.5 * z.flatten(1)).softmax(1) - F.one_hot(labels, 3)
    expected = (error * z.flatten(1)).sum(1).square()
    ours = sharpness.fisher_trace(Temperature(), z, labels)
    torch.testing.assert_close(ours, expected)


def test_fisher_trace_is_a_property_of_the_sample_not_of_its_batch():
    model, images, labels = case("resnet8")
    whole = sharpness.fisher_trace(model, images, labels)
    order = torch.randperm(7, generator=seeded(1))
    shuffled = sharpness.fisher_trace(model, images[order], labels[order], 2)
    torch.testing.assert_close(shuffled, whole[order], rtol=1e-10, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_fisher_trace_restores_the_mode_and_leaves_the_statistics(training):
    model, images, labels = case("small_cnn")
    model.train(training)
    before = {k: b.clone() for k, b in model.named_buffers()}
    sharpness.fisher_trace(model, images, labels)
    assert all(m.training == training for m in model.modules())
    assert all(torch.equal(b, before[k]) for k, b in model.named_buffers())
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        sharpness.fisher_trace(model, images, labels + 3)
    assert model.training == training


@pytest.mark.parametrize("rho", [0.0, -1.0, float("nan")])
def test_a_radius_that_is_not_positive_is_refused(rho):
    with pytest.raises(ValueError, match=f"distance rho > 0 away, got rho={rho}"):
        sharpness.sam_sharpness(lambda p: flat(p).sum(), weights(), rho)


def test_a_loss_per_sample_is_refused(unchecked):
    message = r"must return a scalar, got shape \(17,\); take the mean"
    with pytest.raises(ValueError, match=message):
        sharpness.sam_sharpness(lambda p: flat(p).square(), weights(), 0.1)
    with pytest.raises(ValueError, match=message):
        sharpness.hessian_trace(lambda p: flat(p).square(), weights(), 2, seeded())


def test_one_probe_has_no_standard_error():
    with pytest.raises(ValueError, match="at least 2 probes, got probes=1"):
        sharpness.hessian_trace(lambda p: flat(p).sum(), weights(), 1, seeded())
