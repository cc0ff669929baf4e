"""SAM's and the average rise against closed forms; members; what is refused."""

import pytest
import torch
from torch.nn import functional as F

from sbtutor import models, perturb, sharpness
from sbtutor.config import ModelConfig


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


def bowl(seed=1):
    """A symmetric indefinite H, slopes g, and L(w + e) = g'e + e'He / 2 around w."""
    root = torch.randn(17, 17, generator=seeded(seed), dtype=torch.float64)
    h, g = root + root.T, torch.randn(17, generator=seeded(seed + 1)).double()
    w = flat(weights())

    def loss_fn(p):
        e = flat(p) - w
        return g @ e + e @ h @ e / 2

    return loss_fn, h, g


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("rho", [0.01, 0.5])
def test_average_sharpness_is_half_the_scaled_trace_on_a_quadratic(rho, adaptive):
    """E = rho^2/2 tr(THT); a draw's variance is rho^2 ||Tg||^2 + rho^4/2 ||THT||^2."""
    (loss_fn, h, g), draws = bowl(), 3000
    t = flat(weights()).abs() if adaptive else torch.ones(17).double()
    scaled = t[:, None] * h * t
    found = sharpness.average_sharpness(
        loss_fn, weights(), rho, draws, seeded(), adaptive
    )
    spread = rho**2 * (t * g).square().sum() + rho**4 / 2 * scaled.square().sum()
    assert abs(found - rho**2 / 2 * scaled.trace()) < 4 * (spread / draws).sqrt()


@pytest.mark.parametrize("adaptive", [True, False])
def test_average_sharpness_is_the_mean_over_the_generators_draws(adaptive):
    loss_fn, w = bowl()[0], weights()
    draw = seeded(3)
    z = [torch.randn(17, generator=draw, dtype=torch.float64) for _ in range(6)]
    t = flat(w).abs() if adaptive else 1
    rises = [loss_fn({"all": flat(w) + 0.3 * t * row}) - loss_fn(w) for row in z]
    found, again = (
        sharpness.average_sharpness(loss_fn, w, 0.3, 6, seeded(3), adaptive)
        for _ in range(2)
    )
    torch.testing.assert_close(found, torch.stack(rises).mean())
    assert torch.equal(found, again)
    other = sharpness.average_sharpness(loss_fn, w, 0.3, 6, seeded(4), adaptive)
    assert found != other


def test_average_sharpness_can_be_negative_and_leaves_zero_weights_alone():
    """On a cap every place is lower; what is 0 stays 0 when T = |w|."""
    w = weights()
    w["b"][:] = 0
    seen = []

    def cap(p):
        seen.append(p["b"].clone())
        return -(p["a"] - w["a"]).square().sum()

    assert sharpness.average_sharpness(cap, w, 0.1, 5, seeded()) < 0
    assert len(seen) == 6  # the draws, and once at w
    assert not any(b.any() for b in seen)


def test_average_sharpness_does_not_change_when_weights_are_rescaled():
    """L(w / c) at c w, c > 0: relative steps are the same steps."""
    loss_fn, w = bowl()[0], weights()
    c = torch.linspace(0.1, 30, 17).double()
    found = sharpness.average_sharpness(loss_fn, w, 0.2, 5, seeded())
    there = sharpness.average_sharpness(
        lambda p: loss_fn({"all": p["all"] / c}), {"all": c * flat(w)}, 0.2, 5, seeded()
    )
    torch.testing.assert_close(found, there)


@pytest.mark.parametrize("draws", [0, -1])
def test_a_mean_of_no_draws_is_refused(draws):
    with pytest.raises(ValueError, match=f"at least 1 draw, got draws={draws}"):
        sharpness.average_sharpness(bowl()[0], weights(), 0.1, draws, seeded())


MEASURES = {
    "sam": lambda f, w: sharpness.sam_sharpness(f, w, 0.1),
    "worst": lambda f, w: sharpness.worst_case_sharpness(f, w, 0.1, steps=3),
    "average": lambda f, w: sharpness.average_sharpness(f, w, 0.1, 2, seeded()),
    "trace": lambda f, w: sharpness.hessian_trace(f, w, 2, seeded())[0],
    "eigenvalue": lambda f, w: sharpness.hessian_top_eigenvalue(f, w, 0.1),
}


@pytest.mark.parametrize("measure", MEASURES)
def test_of_members_is_one_value_a_member_in_eval_mode(measure):
    """Each layer's own mode is back afterwards, also after an error."""
    members = [case("small_cnn", width=width)[0] for width in (2, 3, 4)]
    members[1].eval()
    members[2].norm1.eval()
    modes = [[m.training for m in member.modules()] for member in members]
    _, images, labels = case()
    found = sharpness.of_members(MEASURES[measure], members, images, labels)
    assert [[m.training for m in member.modules()] for member in members] == modes
    for value, member in zip(found, members, strict=True):
        member.eval()
        loss_fn = sharpness.loss_of(member, images, labels)
        single = MEASURES[measure](loss_fn, sharpness.parameters_of(member))
        torch.testing.assert_close(value, single)


def test_of_members_restores_the_mode_after_an_error():
    model, images, labels = case("small_cnn")
    with pytest.raises(ZeroDivisionError):
        sharpness.of_members(lambda f, w: 1 / 0, [model], images, labels)
    assert all(m.training for m in model.modules())


def test_loss_of_is_the_mean_cross_entropy_at_any_parameters():
    model, images, labels = case("lenet")
    loss_fn = sharpness.loss_of(model.eval(), images, labels)
    params = sharpness.parameters_of(model)
    assert list(params) == [name for name, _ in model.named_parameters()]
    assert not any(p.requires_grad for p in params.values())
    torch.testing.assert_close(
        loss_fn(params), F.cross_entropy(model(images), labels).detach()
    )
    uniform = loss_fn({name: 0 * p for name, p in params.items()})
    torch.testing.assert_close(uniform, torch.tensor(3.0).double().log())


@pytest.mark.parametrize("measure", MEASURES)
def test_measuring_changes_neither_weights_nor_grad_fields(measure):
    model, images, labels = case("resnet8")
    before = {k: v.clone() for k, v in model.eval().state_dict().items()}
    loss_fn = sharpness.loss_of(model, images, labels)
    MEASURES[measure](loss_fn, sharpness.parameters_of(model))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("rho", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("measure", ["sam", "worst", "average"])
def test_a_radius_that_is_not_positive_and_finite_is_refused(measure, rho):
    measures = {
        "sam": lambda f, w: sharpness.sam_sharpness(f, w, rho),
        "worst": lambda f, w: sharpness.worst_case_sharpness(f, w, rho),
        "average": lambda f, w: sharpness.average_sharpness(f, w, rho, 2, seeded()),
    }
    with pytest.raises(ValueError, match=f"distance rho > 0 away, got rho={rho}"):
        measures[measure](lambda p: flat(p).sum(), weights())


def test_an_unknown_norm_or_rule_is_refused(unchecked):
    worst, loss_fn = sharpness.worst_case_sharpness, bowl()[0]
    with pytest.raises(ValueError, match="unknown norm 'l1': write 'l2' or 'linf'"):
        worst(loss_fn, weights(), 0.1, norm="l1")
    message = "unknown rule 'paper': write 'textbook' or 'code'"
    with pytest.raises(ValueError, match=message):
        worst(loss_fn, weights(), 0.1, rule="paper")
