"""Four ways to draw weights near one optimum (Fort et al. 2019), and their average.

A point is all P parameters of a network as one vector; each sampler gives S points.
Their strengths come as a tensor (S,), one per sample, so that one call can go from
samples that hardly differ to samples that hardly work.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sbtutor.vector import Vector

Points = Float[Tensor, "S P"]
Checkpoints = Float[Tensor, "T P"]
Strengths = Float[Tensor, " S"]


def random_directions(
    center: Vector, radii: Strengths, generator: torch.Generator
) -> Points:
    """Steps of stated length in uniformly random directions.

        w_s = center + t_s v / ||v||,   v ~ N(0, I)

    One unit vector for all parameters together, not one per filter.

    Args:
        center: the optimum.
        radii: the lengths t >= 0, in the unit of the weights.
        generator: draws v (CPU).

    Raises:
        ValueError: a center that is not one finite vector of 32 or 64 bits; radii not
            (S,) or out of range. So do all functions of this module, for points and
            strengths.
    """
    _check_center(center)
    radii = _strengths("radii", radii, center)
    v = _normal(len(radii), len(center), center, generator)
    return v.mul_((radii / v.norm(dim=1))[:, None]).add_(center)


def accepted_directions(
    center: Vector,
    radius: float,
    count: int,
    accuracy: Callable[[Points], Strengths],
    least: float,
    generator: torch.Generator,
    tries: int = 5,
) -> Points:
    """Random directions of random length, of which only the accurate ones are kept.

        w = center + t v / ||v||,   t ~ radius U(0, 1),   kept if accuracy(w) >= least

    Fort et al. 2019: radius 10, accuracy on validation images of at least 0.70, 30
    samples. Each sample gets up to `tries` draws; the draws of one round are judged
    in one call. A sample that fails every time is left out.

    Args:
        center: the optimum.
        radius: largest length, >= 0.
        count: samples wanted, at least 1.
        accuracy: from points (S, P) to the accuracy of each (S,), in [0, 1]; of
            validation images, as it chooses samples.
        least: lowest accuracy to keep, in [0, 1].
        generator: draws t and v (CPU).
        tries: draws per sample, at least 1.

    Returns:
        1 to `count` points, in the order of acceptance.

    Raises:
        ValueError: an argument out of its range; accuracies that are not (S,) or not
            finite; no draw accepted.
    """
    _check_center(center)
    if not (0 <= radius < torch.inf and 0 <= least <= 1 and min(count, tries) >= 1):
        raise ValueError(
            "write radius >= 0, least in [0, 1] (0.7 for 70 %), count and tries >= 1; "
            f"got radius={radius}, least={least}, count={count}, tries={tries}"
        )
    kept: list[Tensor] = []
    best, missing = -torch.inf, count
    for _ in range(tries):
        share = torch.rand(missing, generator=generator, dtype=center.dtype)
        points = random_directions(center, radius * share, generator)
        accuracies = accuracy(points)
        if accuracies.shape != (missing,):
            raise ValueError(
                f"accuracy must give one number for each of {missing} points, got "
                f"shape {tuple(accuracies.shape)}; keep the points' axis"
            )
        if not accuracies.isfinite().all():
            raise ValueError(
                "accuracy gave NaN or infinity, where shares of images in [0, 1] are "
                "needed; count an image without a finite logit as wrong"
            )
        kept.append(points[(accuracies >= least).to(points.device)])
        best, missing = max(best, float(accuracies.max())), missing - len(kept[-1])
        if missing == 0:
            break
    if missing == count:
        raise ValueError(
            f"no draw within radius={radius} reached accuracy least={least}: the best "
            f"had {best:.3f}; write a smaller radius or a lower least"
        )
    return torch.cat(kept)


def dropout(center: Vector, rates: Strengths, generator: torch.Generator) -> Points:
    """Each weight and each bias is set to 0 with a probability, at random.

        w_i = center_i b_i / (1 - p),   b_i = 0 with probability p, else 1

    The division keeps the mean at the center. This drops parameters, for good, where
    the layer of the same name drops activations, anew for each image.

    Args:
        center: the optimum.
        rates: the probabilities p, in [0, 1).
        generator: draws b (CPU).
    """
    _check_center(center)
    rates = _strengths("rates", rates, center, below=1.0)
    shape, dtype = (len(rates), len(center)), center.dtype
    uniform = torch.rand(shape, generator=generator, dtype=dtype).to(center.device)
    kept = uniform >= rates[:, None]
    return center * kept / (1 - rates)[:, None]


def diagonal_gaussian(
    checkpoints: Checkpoints, scales: Strengths, generator: torch.Generator
) -> Points:
    """A normal distribution of its own for each parameter.

        w_i ~ N(mean_i, (s sigma_i)^2)

    with mean and deviation over T checkpoints of one trajectory. The deviation is the
    population's, divided by T, as in the authors' code (numpy's default).

    Args:
        checkpoints: T >= 2 points, such as those of the last ten epochs.
        scales: the factors s >= 0.
        generator: draws the noise (CPU).
    """
    _check_checkpoints(checkpoints, at_least=2)
    scales = _strengths("scales", scales, checkpoints)
    noise = _normal(len(scales), checkpoints.shape[1], checkpoints, generator)
    deviation = checkpoints.std(0, correction=0)
    return noise.mul_(deviation).mul_(scales[:, None]).add_(checkpoints.mean(0))


def low_rank_gaussian(
    checkpoints: Checkpoints,
    scales: Strengths,
    generator: torch.Generator,
    rank: int = 5,
    form: Literal["pca", "swag"] = "pca",
) -> Points:
    """A normal distribution in the few directions in which checkpoints differ most.

        pca   w = mean + sum_j s z_j v_j
        swag  w = mean + sum_j s z_j d_j v_j / sqrt(T - 1),   z_j ~ N(0, 1)

    with unit vectors v_j and lengths d_j from the singular value decomposition of the
    centred checkpoints. "pca" is Fort et al. 2019 to the letter: the spread is s in
    each direction, whether the checkpoints lie close or far apart. "swag" is the
    low-rank part of Maddox et al. 2019: its covariance is s^2 times the checkpoints'
    sample covariance, or, below rank T - 1, the nearest matrix of that rank.

    Args:
        checkpoints: T >= 2 points.
        scales: the factors s >= 0, for "pca" in the unit of the weights.
        generator: draws z (CPU).
        rank: number of directions, 1 to T - 1, as centring takes one.
        form: "pca" or "swag".

    Raises:
        ValueError: unknown form; rank out of range, or more than the directions in
            which the checkpoints differ at all.
    """
    _check_checkpoints(checkpoints, at_least=2)
    scales = _strengths("scales", scales, checkpoints)
    most = len(checkpoints) - 1
    if not 1 <= rank <= most:
        raise ValueError(
            f"{most + 1} checkpoints span at most {most} directions around their mean, "
            f"got rank={rank} (5 is the default); write rank=1 to {most}, or keep more "
            "checkpoints"
        )
    if form not in ("pca", "swag"):
        raise ValueError(f"unknown form {form!r}: write 'pca' or 'swag'")
    mean = checkpoints.mean(0)
    # In double, as float32 leaves three digits at P = 10^6; on the CPU, as devices
    # choose signs differently.
    centred = (checkpoints - mean).cpu().double()
    _, lengths, directions = torch.linalg.svd(centred, full_matrices=False)
    # Shorter than this is what rounding makes of a direction that is not there.
    rounding = torch.finfo(mean.dtype).eps * len(centred) * float(checkpoints.norm())
    found = int((lengths > rounding).sum())
    if found < rank:
        raise ValueError(
            f"the checkpoints differ in {found} directions only, got rank={rank}; "
            "write a smaller rank, or leave out checkpoints that repeat others"
        )
    if form == "swag":
        directions = directions * lengths[:, None] / most**0.5
    z = _normal(len(scales), rank, checkpoints, generator) * scales[:, None]
    return (z @ directions[:rank].to(checkpoints)).add_(mean)


def swag(
    checkpoints: Checkpoints, scales: Strengths, generator: torch.Generator
) -> Points:
    """Both halves of SWAG (Maddox et al. 2019): a diagonal and a low-rank normal.

        w = mean + s (sigma z_1 / sqrt(2) + D^T z_2 / sqrt(2 (T - 1))),   z ~ N(0, I)

    D (T, P) has the checkpoints less their mean as rows; sigma is their population
    deviation, weight by weight. The covariance is s^2 times the mean of the diagonal
    and of the sample covariance.

    Args:
        checkpoints: T >= 2 points of one trajectory.
        scales: the factors s >= 0; 1 is Maddox et al.'s.
        generator: draws the noise (CPU).
    """
    diagonal = diagonal_gaussian(checkpoints, scales, generator)
    scales = _strengths("scales", scales, checkpoints)
    z = _normal(len(scales), len(checkpoints), checkpoints, generator)
    mean = checkpoints.mean(0)
    low_rank = z @ (checkpoints - mean) / (len(checkpoints) - 1) ** 0.5
    return mean + (diagonal - mean + scales[:, None] * low_rank) / 2**0.5


def average(checkpoints: Checkpoints) -> Vector:
    """The mean of T >= 1 points: weight averaging (Izmailov et al. 2018).

    A network with BatchNorm needs its statistics re-estimated there.
    """
    _check_checkpoints(checkpoints, at_least=1)
    return checkpoints.mean(0)


def _normal(rows: int, columns: int, like: Tensor, draw: torch.Generator) -> Tensor:
    """Drawn on the CPU, so that devices agree."""
    return torch.randn(rows, columns, generator=draw, dtype=like.dtype).to(like.device)


def _check_center(center: Tensor) -> None:
    if center.dim() != 1 or center.numel() == 0:
        raise ValueError(
            "center must be all parameters as one vector (P,), got "
            f"{tuple(center.shape)}; write stack.points_of([member])[0]"
        )
    _check_values("center", center)


def _check_checkpoints(points: Tensor, at_least: int) -> None:
    if points.dim() != 2 or points.numel() == 0 or len(points) < at_least:
        raise ValueError(
            f"checkpoints must be (T, P), one row of parameters each, T >= {at_least}, "
            f"got {tuple(points.shape)}; write stack.points_of(members)"
        )
    _check_values("checkpoints", points)


def _check_values(name: str, points: Tensor) -> None:
    if points.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"{name} must hold 32 or 64 bits a number, got {points.dtype}; write "
            f"{name}.float()"
        )
    if not points.isfinite().all():
        raise ValueError(
            f"{name} must be finite, got NaN or infinity: training has diverged; "
            "lower lr, or take an earlier epoch"
        )


def _strengths(
    name: str, values: Tensor, points: Tensor, below: float = torch.inf
) -> Strengths:
    """Checked, in the points' dtype and on their device."""
    if values.dim() != 1:
        raise ValueError(
            f"{name} must be (S,), one per sample, got {tuple(values.shape)}; for S "
            "equal ones write torch.full((S,), value)"
        )
    values = values.to(points)
    bad = values[~((values >= 0) & (values < below))]
    if len(bad):
        raise ValueError(
            f"{name} must be in [0, {below:g}), got {float(bad[0]):g}; 0 gives the "
            "middle itself"
        )
    return values


# From an optimum, its late checkpoints and strengths (S,) to points (S, P): the four
# samplers, one in two forms, called alike. Strengths have each sampler's own unit;
# for "random" it is the length of the optimum's weights.
SAMPLERS: dict[str, Callable[[Tensor, Tensor, Tensor, torch.Generator], Tensor]] = {
    "random": lambda w, late, s, draw: random_directions(w, s * w.norm(), draw),
    "dropout": lambda w, late, s, draw: dropout(w, s, draw),
    "diagonal": lambda w, late, s, draw: diagonal_gaussian(late, s, draw),
    "low rank": lambda w, late, s, draw: low_rank_gaussian(late, s, draw),
    "swag": lambda w, late, s, draw: low_rank_gaussian(late, s, draw, form="swag"),
}
# Strengths that ruin small networks (found on validation images of one seed a set).
REACH = {"random": 0.8, "dropout": 0.25, "diagonal": 40, "low rank": 2, "swag": 30}
