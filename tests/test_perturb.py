"""Steps in weight space have the stated length and direction."""

import pytest
import torch

from sbtutor import perturb


def tensors(seed: int, lead: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv": (3, 2, 2, 2), "bias": (3,), "scale": ()}
    return {
        name: torch.randn((*lead, *shape), generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def flat(some: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.flatten() for t in some.values()])


def test_norm_is_that_of_all_tensors_as_one_vector():
    assert perturb.norm({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}) == 5
    torch.testing.assert_close(perturb.norm(tensors(0)), flat(tensors(0)).norm())


def test_norm_with_a_lead_axis_is_each_networks_own():
    many = tensors(0, lead=(4,))
    own = [flat({k: t[m] for k, t in many.items()}).norm() for m in range(4)]
    torch.testing.assert_close(perturb.norm(many, lead=1), torch.stack(own))


@pytest.mark.parametrize("rho", [0.0, 0.05, 3.0])
def test_along_gradient_steps_rho_in_the_gradients_direction(rho):
    w, g = tensors(0), tensors(1)
    before = flat(w).clone()
    moved = flat(perturb.along_gradient(w, g, rho)) - before
    torch.testing.assert_close(moved, rho * flat(g) / flat(g).norm())
    assert torch.equal(flat(w), before)


def test_along_gradient_does_not_depend_on_the_gradients_length():
    w, g = tensors(0), tensors(1)
    larger = {name: 1e3 * t for name, t in g.items()}
    a, b = (perturb.along_gradient(w, x, 0.1) for x in (g, larger))
    torch.testing.assert_close(flat(a), flat(b))


def test_norms_of_stacked_networks_are_those_of_each_alone():
    g = tensors(1, lead=(3,))
    together = perturb.norm(g, lead=1)
    for m in range(3):
        alone = perturb.norm({k: t[m] for k, t in g.items()})
        torch.testing.assert_close(together[m], alone)


def test_no_step_of_length_rho_raises_a_linear_loss_more():
    """max <g, e> over ||e|| <= rho is rho ||g||, reached along g."""
    w, g = tensors(0), tensors(1)
    best = flat(g) @ (flat(perturb.along_gradient(w, g, 0.2)) - flat(w))
    assert best == pytest.approx(0.2 * float(flat(g).norm()))
    generator = torch.Generator().manual_seed(2)
    for _ in range(50):
        other = flat(perturb.at_random(w, 0.2, generator)) - flat(w)
        assert flat(g) @ other < best


def test_a_zero_gradient_gives_no_step():
    w = tensors(0)
    zero = {name: torch.zeros_like(t) for name, t in w.items()}
    assert torch.equal(flat(perturb.along_gradient(w, zero, 0.1)), flat(w))


def test_random_steps_are_uniform_on_the_sphere_of_radius_rho():
    """E e = 0 and E e_i^2 = rho^2 / d; both within 4.5 standard errors."""
    w, rho, draws = tensors(0), 2.0, 4000
    generator = torch.Generator().manual_seed(0)
    steps = torch.stack(
        [flat(perturb.at_random(w, rho, generator)) - flat(w) for _ in range(draws)]
    )
    d = steps.shape[1]
    torch.testing.assert_close(steps.norm(dim=1), torch.full((draws,), rho).double())
    assert (steps.mean(0).abs() < 4.5 * rho / (d * draws) ** 0.5).all()
    squares = steps.square()
    error = squares.std(0) / draws**0.5
    assert ((squares.mean(0) - rho**2 / d).abs() < 4.5 * error).all()


def test_a_generator_decides_the_random_step():
    w = tensors(0)
    a, b, c = (
        flat(perturb.at_random(w, 0.1, torch.Generator().manual_seed(s)))
        for s in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
