"""Worst-case sharpness: closed-form maxima, a slow second Auto-PGD, projections."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

from sbtutor import ascent, sharpness, theory, vector

SIZE = 17


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def weights(seed=3):
    w = normal(SIZE, seed=seed)
    return {"a": w[:12].view(4, 3), "b": w[12:]}


def flat(params):
    return torch.cat([p.flatten() for p in params.values()])


def around(params, g, h):
    """g'e + e'diag(h)e / 2, e the distance from `params`, as a loss."""
    start = flat(params)

    def loss_fn(p):
        e = flat(p) - start
        return g @ e + (h * e * e).sum() / 2

    return loss_fn


def scales(params, adaptive):
    return flat(params).abs() if adaptive else torch.ones(SIZE).double()


CURVATURES = {"convex": (0, 5), "indefinite": (-5, 5), "concave": (-5, 0)}


def problem(kind, seed):
    low, high = CURVATURES[kind]
    h = torch.rand(SIZE, generator=seeded(seed), dtype=torch.float64)
    return weights(), normal(SIZE, seed=seed + 50), low + (high - low) * h


def exact(params, g, h, rho, adaptive):
    """With e = T u the quadratic has slopes T g and eigenvalues T h T."""
    scale = scales(params, adaptive)
    return theory.quadratic_rise(h * scale**2, g * scale, rho)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("rho", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("kind", CURVATURES)
@pytest.mark.parametrize("rule", ["textbook", "code"])
def test_the_rise_is_never_above_a_quadratics_maximum(rule, kind, rho, adaptive):
    for seed in range(2):
        params, g, h = problem(kind, seed)
        most = exact(params, g, h, rho, adaptive)
        for steps in (1, 2, 7, 20):
            found = sharpness.worst_case_sharpness(
                around(params, g, h), params, rho, "l2", adaptive, steps, rule
            )
            assert 0 <= found <= most * (1 + 1e-12)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize(
    ("kind", "rho"),
    [
        *itertools.product(("convex", "indefinite"), (0.1, 1.0, 3.0)),
        *itertools.product(("concave",), (0.1, 1.0)),
    ],
)
def test_the_rise_converges_to_a_quadratics_maximum(kind, rho, adaptive):
    """To a millionth in 200 steps, to 4 % in the 20 of the default."""
    for seed in range(2):
        params, g, h = problem(kind, seed)
        most = exact(params, g, h, rho, adaptive)
        for steps, near in ((20, 0.04), (200, 1e-6)):
            found = sharpness.worst_case_sharpness(
                around(params, g, h), params, rho, "l2", adaptive, steps
            )
            assert found == pytest.approx(most.item(), rel=near)


def test_the_published_rule_converges_too_unless_it_is_adaptive():
    """Stepping by T g but projecting in w: the ascent rests where it is not highest."""
    params, g, h = problem("convex", 0)
    gaps = {}
    for adaptive in (True, False):
        found = sharpness.worst_case_sharpness(
            around(params, g, h), params, 1.0, "l2", adaptive, 300, "code"
        )
        gaps[adaptive] = 1 - found / exact(params, g, h, 1.0, adaptive)
    assert gaps[True] > 1e-3
    assert gaps[False] < 1e-6


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize("rule", ["textbook", "code"])
def test_linf_of_a_separable_convex_quadratic_is_exact(rule, steps, adaptive):
    """All weights go the gradient's way: rho |T g| + rho^2 h T^2 / 2, summed.

    The published code mixes each step with the last place but one, so k steps reach
    the share c_k of rho: c_k = 0.75 + 0.25 c_{k-2} from c_0 = c_{-1} = 0.
    """
    before, share = 0.0, 0.0
    for _ in range(steps):
        before, share = share, 0.75 + 0.25 * before
    params, g, h = problem("convex", 0)
    for rho in (0.01, 0.5):
        found = sharpness.worst_case_sharpness(
            around(params, g, h), params, rho, "linf", adaptive, steps, rule
        )
        reach = rho * scales(params, adaptive) * (share if rule == "code" else 1)
        torch.testing.assert_close(found, (reach * g.abs() + reach**2 * h / 2).sum())


@pytest.mark.parametrize("kind", ["indefinite", "concave"])
@pytest.mark.parametrize("adaptive", [True, False])
def test_linf_of_a_separable_quadratic_that_is_not_convex(kind, adaptive):
    """Each weight by itself: to the border, or to g / |h| where that comes first."""
    params, g, h = problem(kind, 1)
    rho, scale = 0.5, scales(params, adaptive)
    reach = rho * scale
    top = torch.where(h < 0, torch.minimum(reach, g.abs() / h.abs()), reach)
    most = (g.abs() * top + h * top**2 / 2).sum().item()
    for steps, near in ((20, 0.1), (300, 1e-3)):
        found = sharpness.worst_case_sharpness(
            around(params, g, h), params, rho, "linf", adaptive, steps
        )
        assert most * (1 - near) < found <= most * (1 + 1e-12)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_from_a_stationary_place_the_ascent_still_goes_up(norm, adaptive):
    """Gradient exactly zero, as at a minimum: rho^2 / 2 max h T^2, or their sum."""
    params, _, h = problem("convex", 2)
    bend = h * scales(params, adaptive) ** 2
    most = (bend.max() if norm == "l2" else bend.sum()).item() * 0.3**2 / 2
    start = flat(params)
    for steps, near in ((1, 1.0), (20, 0.1), (200, 1e-3)):
        found = sharpness.worst_case_sharpness(
            lambda p: (h * (flat(p) - start) ** 2).sum() / 2, params, 0.3, norm,
            adaptive, steps,
        )  # fmt: skip
        assert most * (1 - near) < found <= most * (1 + 1e-12)


@pytest.mark.parametrize("rule", ["textbook", "code"])
def test_a_maximum_and_a_plain_do_not_rise(rule):
    params = weights()
    start = flat(params)
    for loss_fn in (
        lambda p: -(flat(p) - start).square().sum(),
        lambda p: 0 * flat(p).sum(),
    ):
        for norm in ("l2", "linf"):
            found = sharpness.worst_case_sharpness(
                loss_fn, params, 0.5, norm, rule=rule
            )
            assert found == 0


def test_all_weights_zero_cannot_move_when_adaptive():
    params = {"a": torch.zeros(5).double()}
    found = sharpness.worst_case_sharpness(lambda p: p["a"].sum(), params, 0.5)
    assert found == 0


def wavy(p):
    """Not quadratic, not convex."""
    w = flat(p)
    return (w.sin() * (3 * w).cos()).sum() + (w[:-1] * w[1:]).sum() / 3


def visited(loss_fn, places, slopes=None):
    def recording(p):
        places.append(flat(p).detach().clone())
        if slopes is not None:
            slopes.append(torch.is_grad_enabled())
        return loss_fn(p)

    return recording


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("rule", ["textbook", "code"])
def test_every_place_lies_inside_and_zero_weights_stay(rule, norm, adaptive):
    """||e / T||_p <= rho; T = |w| is zero for two weights; the best place counts."""
    params, rho, places = weights(), 0.7, []
    params["a"][0, 1] = params["b"][2] = 0
    w, scale = flat(params), scales(params, adaptive)
    found = sharpness.worst_case_sharpness(
        visited(wavy, places), params, rho, norm, adaptive, rule=rule
    )
    for place in places:
        u = (place - w) / scale
        assert (place[scale == 0] == 0).all()
        assert u[scale > 0].norm(p={"l2": 2, "linf": math.inf}[norm]) < rho + 1e-9
    highest = max(wavy({"a": place}) for place in places)
    torch.testing.assert_close(found, highest - wavy(params))


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_the_ascent_costs_its_steps_in_gradients_and_one_loss(steps):
    places, slopes = [], []
    sharpness.worst_case_sharpness(
        visited(wavy, places, slopes), weights(), 0.5, steps=steps
    )
    assert slopes == [True] * steps + [False]
    assert torch.equal(places[0], flat(weights()))


@pytest.mark.parametrize(
    ("rule", "norm"), [("textbook", "l2"), ("textbook", "linf"), ("code", "linf")]
)
def test_adaptive_sharpness_does_not_change_when_weights_are_rescaled(rule, norm):
    """L(w / c) at c w, c of either sign: the same function, the same sharpness.

    Not so for the published l2 step, which is no step of steepest ascent.
    """
    c, params = normal(SIZE, seed=9).sign() * 2.0 ** torch.arange(-8, 9), weights()
    there = {"all": c * flat(params)}
    found = [
        sharpness.worst_case_sharpness(loss_fn, p, 0.5, norm, rule=rule)
        for loss_fn, p in (
            (wavy, params),
            (lambda p: wavy({"all": p["all"] / c}), there),
        )
    ]
    torch.testing.assert_close(found[0], found[1])
    fixed = sharpness.worst_case_sharpness(
        lambda p: wavy({"all": p["all"] / c}), there, 0.5, norm, adaptive=False
    )
    assert fixed != pytest.approx(found[0].item(), rel=1e-2)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("adaptive", [True, False])
def test_a_larger_ball_holds_a_higher_place(norm, adaptive):
    params, g, h = problem("convex", 3)
    found = [
        sharpness.worst_case_sharpness(
            around(params, g, h), params, rho, norm, adaptive
        )
        for rho in (0.01, 0.1, 0.3, 1.0, 3.0)
    ]
    assert found == sorted(found)


def net_loss():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    loss_fn = sharpness.loss_of(model, normal(12, 6), torch.arange(12) % 3)
    return loss_fn, sharpness.parameters_of(model)


@pytest.mark.parametrize("rho", [0.05, 0.5, 5.0])
def test_worst_case_sharpness_is_at_least_that_of_one_step(rho):
    """The first step, 2 rho long and brought back to rho, is SAM's, ASAM's, FGSM's."""
    loss_fn, params = net_loss()
    w = vector.flatten(params)
    loss, g = vector.loss_and_gradient(loss_fn, w, params)

    def rise(e):
        return loss_fn(vector.unflatten(w + e, params)) - loss

    worst = sharpness.worst_case_sharpness
    scaled = w.abs() * g
    single = {
        (False, "l2"): rise(rho * g / g.norm()),
        (True, "l2"): rise(rho * w.abs() * scaled / scaled.norm()),
        (False, "linf"): rise(rho * g.sign()),
        (True, "linf"): rise(rho * w.abs() * g.sign()),
    }
    for (adaptive, norm), step in single.items():
        once = worst(loss_fn, params, rho, norm, adaptive, steps=1)
        torch.testing.assert_close(once, step.clamp(min=0), rtol=1e-6, atol=1e-12)
        assert worst(loss_fn, params, rho, norm, adaptive) >= once
    sam = sharpness.sam_sharpness(loss_fn, params, rho)
    assert worst(loss_fn, params, rho, "l2", False) >= sam - 1e-12


def test_for_small_rho_the_rise_is_rho_times_the_dual_norm():
    """rho ||T g||_2 for l2, rho ||T g||_1 for linf."""
    loss_fn, params = net_loss()
    w, rho = vector.flatten(params), 1e-5
    g = vector.loss_and_gradient(loss_fn, w, params)[1]
    for adaptive, slope in ((True, w.abs() * g), (False, g)):
        for norm, p in (("l2", 2), ("linf", 1)):
            found = sharpness.worst_case_sharpness(loss_fn, params, rho, norm, adaptive)
            assert found == pytest.approx(rho * slope.norm(p).item(), rel=1e-3)


def test_the_dtype_is_kept():
    params = {"a": torch.linspace(-1, 1, 9)}
    for rule in ("textbook", "code"):
        found = sharpness.worst_case_sharpness(wavy, params, 0.5, rule=rule)
        double = sharpness.worst_case_sharpness(
            wavy, {"a": params["a"].double()}, 0.5, rule=rule
        )
        assert found.dtype == torch.float32
        assert found == pytest.approx(double.item(), rel=1e-2)


def marks(steps):
    """w_j by exact fractions."""
    p = [Fraction(0), Fraction(22, 100)]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - Fraction(3, 100), Fraction(6, 100)))
    return [math.ceil(share * steps) for share in p[1:]]


def float_marks(steps):
    """w_j as the published code computes them, in floating point."""
    p = [0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    return [math.ceil(share * steps) for share in p[1:]]


def test_the_published_codes_checkpoints_come_a_step_later():
    """0-based 5, 9, 12, 15, 16, 18, 19, 20: its 15 is a rounding error's."""
    found = sorted(ascent.checkpoints(20, "code"))
    assert found[:8] == [6, 10, 13, 16, 17, 19, 20, 21]


def test_checkpoints_by_hand():
    """p = .22 .41 .57 .70 .80 .87 .93 .99 1.05; Croce and Hein's at 100 steps.

    In floating point .57 + .13 is above .7, so ceil(20 p_4) would be 15, not 14.
    """
    assert sorted(ascent.checkpoints(20)) == [5, 9, 12, 14, 16, 18, 19, 20, 21]
    first = [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(ascent.checkpoints(100))[:8] == first


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 50, 100, 200, 1000, 12345])
def test_checkpoints_are_those_of_exact_fractions(steps):
    assert ascent.checkpoints(steps) == set(marks(steps))


def inside(e, scale, rho):
    """The nearest place with ||e / T||_2 <= rho, weight by weight, by Brent's method.

    Lagrange: e_i (1 + 2 a / T_i^2) = the given e_i.
    """

    def length(a):
        return math.sqrt(sum((x / t / (1 + 2 * a / t**2)) ** 2 for x, t in moving))

    moving = [(x, t) for x, t in zip(e, scale, strict=True) if t > 0]
    if length(0) <= rho:
        return e
    a = optimize.brentq(lambda a: length(a) - rho, 0, 1e4, xtol=1e-15, rtol=1e-14)
    return [
        x / (1 + 2 * a / t**2) if t > 0 else 0.0 for x, t in zip(e, scale, strict=True)
    ]


class Slow:
    """Steps in lists of e = w' - w, weight by weight, by the table of B2."""

    def __init__(self, loss_fn, params, rho, norm, adaptive, rule):
        self.loss_fn, self.params, self.rho = loss_fn, params, rho
        self.norm, self.rule = norm, rule
        self.w = flat(params).tolist()
        self.scale = [abs(x) if adaptive else 1.0 for x in self.w]

    def at(self, e):
        """Loss and gradient."""
        place = [x + d for x, d in zip(self.w, e)]
        place = torch.tensor(place, dtype=torch.float64, requires_grad=True)
        loss = self.loss_fn(vector.unflatten(place, self.params))
        return loss.item(), torch.autograd.grad(loss, place)[0].tolist()

    def project(self, e):
        if self.norm == "linf":
            border = [self.rho * t for t in self.scale]
            return [max(-b, min(b, d)) for d, b in zip(e, border)]
        if self.rule == "code":
            return inside(e, self.scale, self.rho)
        length = math.hypot(*(d / t for d, t in zip(e, self.scale) if t > 0))
        return [d * min(1, self.rho / length) for d in e]

    def uphill(self, g):
        if self.norm == "linf":
            return [t * float(np.sign(s)) for s, t in zip(g, self.scale)]
        if self.rule == "code":
            return [t * s / math.hypot(*g) for s, t in zip(g, self.scale)]
        length = math.hypot(*(t * s for s, t in zip(g, self.scale)))
        return [t * t * s / length for s, t in zip(g, self.scale)]

    def step(self, e, before, g, size):
        z = self.project([d + size * p for d, p in zip(e, self.uphill(g))])
        if before is None:
            return z
        if self.rule == "code":
            return [0.75 * a + 0.25 * b for a, b in zip(z, before)]
        return self.project(
            [d + 0.75 * (a - d) + 0.25 * (d - b) for a, d, b in zip(z, e, before)]
        )


def slow_ascent(loss_fn, params, rho, norm, adaptive, steps, rule):
    """Auto-PGD, where an improvement is a step that ends higher than it began.

    The first step has no momentum. The published code differs: its first step has, an
    improvement is a new record, and steps are counted from 0 with unrounded marks.
    """
    code = rule == "code"
    slow = Slow(loss_fn, params, rho, norm, adaptive, rule)
    e, before, size, count = [0.0] * len(slow.w), None, 2 * rho, 0
    before = list(e) if code else before
    start, g = slow.at(e)
    loss, top = start, (start, g, e)
    checks, last = float_marks(steps) if code else marks(steps), (0, size, start)
    for step in range(1, steps + 1):
        e, before, old = slow.step(e, before, g, size), e, loss
        loss, g = slow.at(e)
        count += loss > (top[0] if code else old)
        top = (loss, g, e) if loss > top[0] else top
        place = step - 1 if code else step
        if place in checks:
            few, stuck = count < 0.75 * (place - last[0]), last[1:] == (size, top[0])
            last, count = (place, size, top[0]), 0
            if few or stuck:
                size /= 2
                loss, g, best = top  # the weights go back ...
                e = e if code else best  # ... and e, by the textbook
    return top[0] - start


@pytest.mark.parametrize("rule", ["textbook", "code"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("steps", [1, 6, 20, 50])
def test_the_rise_is_that_of_a_slow_second_implementation(rule, norm, adaptive, steps):
    losses = [wavy, around(*problem("indefinite", 5))]
    for loss_fn, rho in zip(losses * 2, (0.2, 0.4, 2.0, 1.0)):
        asked = (loss_fn, weights(), rho, norm, adaptive, steps, rule)
        found = sharpness.worst_case_sharpness(*asked)
        assert found == pytest.approx(slow_ascent(*asked), rel=1e-7)


def test_the_two_rules_differ():
    found = {
        rule: sharpness.worst_case_sharpness(wavy, weights(), 0.5, rule=rule)
        for rule in ("textbook", "code")
    }
    assert abs(found["textbook"] - found["code"]) > 1e-3


def balls(size=6, rho=0.5):
    for seed in range(5):
        scale = 10 ** (4 * torch.rand(size, generator=seeded(seed)).double() - 3)
        yield ascent.Ball(scale, rho, "l2", "code"), normal(size, seed=seed)


def test_the_nearest_place_in_w_obeys_lagrange():
    """e_given - e = 2 a e / T^2 with one a >= 0 for all, on the border."""
    for ball, u in balls():
        found = ball.project(u)
        assert found.norm() == pytest.approx(ball.rho, rel=1e-6)
        a = (u / found - 1) * ball.scale**2 / 2
        assert (a >= 0).all()
        torch.testing.assert_close(a, a[:1].expand(len(a)), rtol=1e-4, atol=1e-12)


def solved(given, scale, rho):
    """The nearest place with ||e / T|| <= rho by sequential quadratic programming."""
    border = {"type": "ineq", "fun": lambda e: rho**2 - ((e / scale) ** 2).sum()}
    return optimize.minimize(
        lambda e: ((e - given) ** 2).sum(),
        np.zeros(len(given)),
        method="SLSQP",
        constraints=border,
        options={"ftol": 1e-14, "maxiter": 500},
    ).x


def test_the_nearest_place_in_w_is_that_of_a_general_solver():
    for ball, u in balls():
        scale = ball.scale.clamp(min=0.2)
        found = scale * ascent.Ball(scale, ball.rho, "l2", "code").project(u)
        expected = solved((scale * u).numpy(), scale.numpy(), ball.rho)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("rule", ["textbook", "code"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_projections_leave_what_is_inside_and_are_idempotent(rule, norm):
    for ball, u in balls():
        ball = ascent.Ball(ball.scale, ball.rho, norm, rule)
        near = u / u.norm() * 0.49
        assert torch.equal(ball.project(near), near)
        once = ball.project(u)
        torch.testing.assert_close(ball.project(once), once)
        assert once.norm(p={"l2": 2, "linf": math.inf}[norm]) <= ball.rho * (1 + 1e-12)


def test_for_equal_scales_both_projections_are_one():
    u = normal(6)
    for size in (0.1, 1.0, 7.0):
        scale = torch.full((6,), size).double()
        found = ascent.Ball(scale, 0.5, "l2", "code").project(u)
        torch.testing.assert_close(found, u * 0.5 / u.norm())


@pytest.mark.parametrize("steps", [0, -3])
def test_no_step_is_refused(steps):
    with pytest.raises(ValueError, match=f"at least 1 step, got steps={steps}"):
        sharpness.worst_case_sharpness(wavy, weights(), 0.1, steps=steps)


def test_a_slope_on_zero_weights_alone_is_no_way_up_but_others_may_be():
    """L = a + (b - 1)^2 at a = 0, b = 1: only b moves, by rho at most."""
    params = {"a": torch.zeros(1).double(), "b": torch.ones(1).double()}
    found = sharpness.worst_case_sharpness(
        lambda p: (p["a"] + (p["b"] - 1) ** 2).sum(), params, 0.1
    )
    assert found == pytest.approx(0.01)


def test_a_loss_that_is_infinite_within_the_radius_is_refused():
    params = {"a": torch.ones(2).double()}
    with pytest.raises(ValueError, match=r"not finite within the radius.*smaller"):
        sharpness.worst_case_sharpness(
            lambda p: -(1.1 - p["a"]).log().sum(), params, 0.5
        )


@pytest.mark.parametrize("size", [1e-9, 1e-14])
def test_a_tiny_slope_still_gives_the_direction(size):
    params = {"a": torch.ones(4).double()}
    found = sharpness.worst_case_sharpness(lambda p: size * p["a"].sum(), params, 1.0)
    assert found / size == pytest.approx(2)  # sum of u over || u || <= 1
