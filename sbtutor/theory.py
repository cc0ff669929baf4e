"""The linear teacher: what SAM does to variance and sharpness, in closed form.

The model (Lu et al. 2024, arXiv 2407.12996, and theoretical_verification.ipynb in the
authors' repository): a teacher w* of d weights, data A (n, d) with entries N(0, 1/d),
loss f(w) = ||A w - A w*||^2 / 2, M = A'A. Learners start at w_0 ~ N(0, sigma2 I) and
take k steps of *unnormalised* SAM:

    w <- w - eta grad f(w + rho grad f(w)),   so   w_k - w* = B^k (w_0 - w*),
    B = I - eta M - eta rho M^2.

Throughout: k steps, `ratio` n / d > 0 (all data), step size eta > 0, SAM's radius
rho >= 0, probing radius rho0 > 0, w_norm = ||w*|| > 0; anything else is a ValueError.
The closed forms are limits d -> infinity at a fixed ratio. No quantity has a unit.
"""

import math
from decimal import Decimal, localcontext
from functools import lru_cache
from numbers import Integral
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Number = int | float


_MEANING = {
    "ratio": "samples per weight, n / d",
    "eta": "the step size; with 0 nothing would move",
    "rho": "SAM's radius; write 0 for gradient descent",
    "sigma2": "the variance of a first weight; write 0 to start all learners at 0",
    "rho0": "the radius in which sharpness is probed",
    "w_norm": "the teacher's length ||w*||",
    "radius": "of the ball in which the maximum is sought",
}


def _whole(least: int, **counts: Number) -> None:
    for name, value in counts.items():
        if not isinstance(value, Integral) or value < least:
            raise ValueError(
                f"{name} is a count: write a whole number >= {least}, got {value!r}"
            )


def _check(**values: Number) -> None:
    for name, value in values.items():
        zero = name in ("rho", "sigma2")
        if not (0 < value < math.inf or (zero and value == 0)):
            raise ValueError(
                f"{name} ({_MEANING[name]}) must be a finite number "
                f"{'>=' if zero else '>'} 0, got {value!r}"
            )


@lru_cache(4096)
def _moment(m: int, ratio: Number, digits: int) -> Decimal:
    """mu_m by Narayana numbers, which are whole: C(m-1, l-1) C(m, l-1) / l."""
    r, total = Decimal(ratio), Decimal(m == 0)
    with localcontext(prec=digits):
        for i in range(m, 0, -1):
            total = (total + math.comb(m - 1, i - 1) * math.comb(m, i - 1) // i) * r
        return total


@lru_cache(16384)
def phi(i: int, j: int, ratio: Number, eta: Number, rho: Number) -> float:
    """The mixed moment phi(i, j) = lim tr(B^i M^j) / d, with its sign.

        phi = sum over a + b <= i of
              i! / (a! b! (i-a-b)!) (-eta)^(a+b) rho^b mu_(a + 2b + j),
        mu_0 = 1,   mu_m = sum_{l=1}^m N(m, l) ratio^l  (Marchenko and Pastur),
        N(m, l) = (1/m) C(m, l) C(m, l-1)  (Narayana numbers).

    The sum alternates and cancels, so it is taken with 50 + 3 (2i + j) decimal digits;
    terms of equal a + 2b are gathered first. The published code returns |phi|, which is
    wrong where phi < 0 (possible for odd i only).

    Raises:
        ValueError: powers i, j negative or not whole; see the top of this file.
    """
    _whole(0, i=i, j=j)
    _check(ratio=ratio, eta=eta, rho=rho)
    i, j, ratio, eta, rho = int(i), int(j), float(ratio), float(eta), float(rho)
    digits = 50 + 3 * (2 * i + j)
    with localcontext(prec=digits):
        a = -Decimal(eta)
        b = a * Decimal(rho)
        before, this = Decimal(0), Decimal(1)  # coefficients of (1 + a x + b x^2)^i
        total = _moment(j, ratio, digits)
        for q in range(1, 2 * i + 1):
            both = a * (i - q + 1) * this + b * (2 * i - q + 2) * before
            before, this = this, both / q
            total += this * _moment(q + j, ratio, digits)
        return float(total)


def finite_size(i: int, j: int, ratio: Number, eta: Number, rho: Number) -> float:
    """The c of E tr(B^i M^j) / d = phi(i, j) + c / d + O(1 / d^2), for Gaussian data.

        c = (h(low) + h(high)) / 4 - (mean of h by the arcsine law on [low, high]) / 2
        h(x) = (1 - eta x - eta rho x^2)^i x^j,   low, high = (sqrt(ratio) -+ 1)^2

    Bai and Silverstein 2004, real case. Arguments and errors as for `phi`.
    """
    phi(i, j, ratio, eta, rho)
    nodes = 2 * i + j + 1  # Chebyshev nodes: exact for polynomials
    angles = (torch.arange(nodes, dtype=torch.float64) + 0.5) * (math.pi / nodes)
    cosine = torch.cat([angles.new_tensor([-1.0, 1.0]), angles.cos()])
    x = 1 + ratio + 2 * math.sqrt(ratio) * cosine
    h = (1 - eta * x - eta * rho * x**2) ** i * x**j
    return (h[:2].sum() / 4 - h[2:].mean() / 2).item()


def sam_variance(
    k: int, ratio: Number, eta: Number, rho: Number, sigma2: Number
) -> float:  # fmt: skip
    """Prediction variance per test point after k SAM steps: phi(2k, 0) sigma2.

    Theorem 1 of Lu et al. 2024. Test points have the law of the data; k = 0 gives
    sigma2, the variance of a first weight. Errors as for `phi`; sigma2 < 0.
    """
    return sharpbalance_variance(k, ratio, eta, rho, sigma2, blocks=1, d=1, w_norm=1)


def sam_sharpness_bounds(
    k: int, ratio: Number, eta: Number, rho: Number, rho0: Number, w_norm: Number,
    gap: Literal["corrected", "code", "tight"] = "corrected", d: int | None = None,
) -> tuple[float, float]:  # fmt: skip
    """(lower, upper) of the sharpness of SAM's mean weight: Theorem 1, Lu et al. 2024.

        kappa = E_A max_{||e|| <= rho0} f(E w_k + e) - f(E w_k)
        rho0^2 low / 2 + rho0 sqrt(mu) - gap <= kappa <= rho0^2 high / 2 + rho0 sqrt(mu)
        mu = phi(2k, 2) w_norm^2,   low, high = (sqrt(ratio) -+ 1)^2,   low = 0 if n < d

    The slope M B^k w* has the squared length X = w*'C w*, C = M^2 B^2k, E X = mu.
    Above, E sqrt(X) <= sqrt(mu) (Jensen). Below, sqrt(X) >= sqrt(mu)
    + (X - mu) / (2 sqrt(mu)) - (X - mu)^2 / (2 mu^1.5) gives gap = rho0 V / (2 mu^1.5)
    with any V >= Var X. With D = phi(4k, 4) - phi(2k, 2)^2:

    - "corrected": V = D w_norm^4, as X^2 <= w_norm^2 w*'C^2 w* (Cauchy and Schwarz).
      True but loose: the lower bound is often negative, so it says nothing.
    - "code": the published gap. It *divides* by w_norm where "corrected" multiplies, so
      it is that bound at w_norm = 1, and unproven at w_norm > 1.
    - "tight": V = 2 D w_norm^4 / (d + 2). C is rotation-invariant, so X = w_norm^2 u'Cu
      with u uniform on the sphere, and given C
      Var u'Cu = 2 (tr C^2 / d - (tr C / d)^2) / (d + 2).
      Var(tr C / d) = O(1 / d^2) is left out: a bound for large d.

    Both sides hold for d -> infinity; `finite_size` tells how far mu is off at d.
    Errors as for `phi`; unknown gap, d without "tight" or "tight" without d.
    """
    if gap not in ("corrected", "code", "tight"):
        raise ValueError(f"unknown gap {gap!r}: choose corrected, code or tight")
    if (gap == "tight") != (d is not None):
        raise ValueError(
            "the number of weights d belongs to gap='tight' and to no other: write "
            f"gap='tight', d=..., or leave d out; got gap={gap!r}, d={d!r}"
        )
    upper = sharpbalance_sharpness_bound(k, ratio, eta, rho, rho0, w_norm, blocks=1)
    second = phi(2 * k, 2, ratio, eta, rho)
    fourth = phi(4 * k, 4, ratio, eta, rho)
    spread = (fourth / second**2 - 1) / 2
    if d is not None:
        _whole(1, d=d)
        spread *= 2 / (d + 2)
    length = w_norm - spread * (1 / w_norm if gap == "code" else w_norm)
    low = max(math.sqrt(ratio) - 1, 0.0) ** 2
    return rho0**2 / 2 * low + rho0 * math.sqrt(second) * length, upper


def sharpbalance_variance(
    k: int, ratio: Number, eta: Number, rho: Number, sigma2: Number,
    blocks: int, d: int, w_norm: Number,
) -> float:  # fmt: skip
    """Prediction variance per test point of Theorem 2's stand-in for SharpBalance.

        phi(2k, 0) sigma2 + (S-1) / (S d) (phi(2k, 0) - phi(k, 0)^2) w_norm^2

    phi at ratio / S: the data are cut into S = `blocks` equal parts, and each learner
    runs SAM on one part. (The real method trains each on all samples, a part of them
    with SAM.) Errors as for `phi`; blocks or d < 1, sigma2 < 0.
    """
    _whole(0, k=k)
    _whole(1, blocks=blocks, d=d)
    _check(ratio=ratio, sigma2=sigma2, w_norm=w_norm)
    first, second = (phi(i, 0, ratio / blocks, eta, rho) for i in (k, 2 * k))
    between = (blocks - 1) / (blocks * d) * (second - first**2) * w_norm**2
    return second * sigma2 + between


def block_moment(
    k: int, ratio: Number, eta: Number, rho: Number, blocks: int,
    form: Literal["exact", "code"] = "exact",
) -> float:  # fmt: skip
    """Q = lim tr(G'G) / d with G = M (B_1^k + ... + B_S^k), for S = `blocks` blocks.

    M is the sum of the blocks' M_s, which become free of each other as d grows. So each
    term tr(B_t^k B_s^k M_u M_v) / d is a polynomial in phi at R = ratio / S. "exact"
    sums them all; for s = v, t = u apart it is the only crossing one,
    2 R phi(k,1) phi(k,0) - R^2 phi(k,0)^2. "code" is the published sum, whose weights
    differ; it is never smaller (Cauchy and Schwarz), so still gives an upper bound.
    Errors as for `phi`; blocks < 1, unknown form.
    """
    _whole(0, k=k)
    _whole(1, blocks=blocks)
    if form not in ("exact", "code"):
        raise ValueError(f"unknown form {form!r}: choose exact or code")
    _check(ratio=ratio)
    s, r = blocks, ratio / blocks
    b0, b1, b2 = (phi(k, j, r, eta, rho) for j in range(3))
    c0, c1, c2 = (phi(2 * k, j, r, eta, rho) for j in range(3))
    two = 2 * r * c1 + 2 * b0 * b2 + r * (1 + r) * c0
    if form == "exact":
        two += b1**2 + 2 * r * b1 * b0 - (r * b0) ** 2
        three = r * (1 + r) * b0**2 + r**2 * c0 + 4 * r * b0 * b1
    else:
        two += 2 * b1**2
        three = 1.5 * (r * (1 + r) * b0**2 + r**2 * c0) + 3 * r * b0 * b1
    pairs, triples = s * (s - 1), s * (s - 1) * (s - 2)
    return s * c2 + pairs * two + triples * (three + (s - 3) * (r * b0) ** 2)


def sharpbalance_sharpness_bound(
    k: int, ratio: Number, eta: Number, rho: Number, rho0: Number, w_norm: Number,
    blocks: int, form: Literal["exact", "code"] = "exact",
) -> float:  # fmt: skip
    """Upper bound of Theorem 2: rho0^2 (sqrt(ratio)+1)^2 / 2 + rho0 sqrt(Q) w_norm / S.

    Of the mean weight's sharpness on all data; Q as in `block_moment`. One block gives
    SAM's bound.
    """
    _check(rho0=rho0, w_norm=w_norm)
    root = math.sqrt(block_moment(k, ratio, eta, rho, blocks, form))
    curved = rho0**2 / 2 * (math.sqrt(ratio) + 1) ** 2
    return curved + rho0 * root * w_norm / blocks


def quadratic_rise(
    eigenvalues: Float[Tensor, "*batch d"],
    slopes: Float[Tensor, "*batch d"],
    radius: Number,
) -> Float[Tensor, "*batch"]:
    """max of e'g + e'diag(h)e / 2 over ||e||_2 <= radius, to the last digits.

    h = `eigenvalues` of any sign and order, g = `slopes` in the same basis. Found as
    the dual's minimum over mu >= max(h, 0) of (sum g^2 / (mu - h) + mu radius^2) / 2,
    equal for any h (Sorensen 1982). Its slope is zero where ||e(mu)|| = radius with
    e = g / (mu - h): by bisection, and an error of mu enters only squared.
    Hard case (g = 0 along max(h)): mu ends at max(h), where 0 / 0 counts as 0.
    """
    _check(radius=radius)
    top = eigenvalues.amax(-1, keepdim=True)
    below = top - eigenvalues  # with mu = top + t, mu - h = t + below: exact
    low = (slopes.abs() / radius - below).amax(-1, keepdim=True).clamp_min(0)
    low = torch.maximum(low, -top)
    high = torch.maximum(low, slopes.norm(dim=-1, keepdim=True) / radius)
    zero = torch.zeros_like(slopes)
    for _ in range(100):
        t = (low + high) / 2
        step = torch.where(slopes == 0, zero, slopes / (t + below))
        outside = step.norm(dim=-1, keepdim=True) > radius
        low, high = torch.where(outside, t, low), torch.where(outside, high, t)
    share = torch.where(slopes == 0, zero, slopes**2 / (high + below))
    return (share.sum(-1) + (top + high).squeeze(-1) * radius**2) / 2


class Simulation(NamedTuple):
    """One number for each simulated dataset, so that `results.interval` applies."""

    variance: Float[Tensor, " datasets"]
    sharpness: Float[Tensor, " datasets"]


def simulate_sam(
    k: int, n: int, d: int, p: int, eta: Number, rho: Number, sigma2: Number,
    rho0: Number, teacher: Float[Tensor, " d"], datasets: int, inits: int,
    generator: torch.Generator,
) -> Simulation:  # fmt: skip
    """`simulate_sharpbalance` with one block: every learner sees all data."""
    return simulate_sharpbalance(
        k, n, d, p, eta, rho, sigma2, rho0, teacher, 1, datasets, inits, generator
    )


def simulate_sharpbalance(
    k: int, n: int, d: int, p: int, eta: Number, rho: Number, sigma2: Number,
    rho0: Number, teacher: Float[Tensor, " d"], blocks: int, datasets: int, inits: int,
    generator: torch.Generator,
) -> Simulation:  # fmt: skip
    """Run the SAM steps of all learners on all datasets at once, in float64.

    The gradient A'(A w - A w*) = M (w - w*) needs M only. Steps are affine in w, so the
    run from w = 0 *is* the mean over all first weights. Variance, mean over p new test
    points: unbiased over `inits` first weights a block, plus the population variance of
    the blocks' means. Sharpness: of the exact mean weight, by `quadratic_rise`.

    n samples (a multiple of `blocks`), d weights, p test points, `teacher` w* (d,), S =
    `blocks`, `datasets` >= 2 draws of data and test points, `inits` >= 2 first weights
    a block, a generator on the teacher's device; anything else is a ValueError.
    """
    _whole(0, k=k)
    _whole(1, n=n, d=d, p=p, blocks=blocks)
    _whole(2, datasets=datasets, inits=inits)
    _check(eta=eta, rho=rho, sigma2=sigma2, rho0=rho0)
    if n % blocks:
        raise ValueError(
            f"blocks are of equal size, so n must be a multiple of blocks={blocks}; "
            f"write n={n - n % blocks or blocks}, not n={n}"
        )
    if teacher.shape != (d,):
        raise ValueError(
            f"the teacher needs d={d} weights, got shape {tuple(teacher.shape)}"
        )
    like = dict(generator=generator, device=teacher.device, dtype=torch.float64)
    data = torch.randn(datasets, blocks, n // blocks, d, **like) / math.sqrt(d)
    test = torch.randn(datasets, 1, p, d, **like) / math.sqrt(d)
    start = torch.randn(datasets, blocks, d, inits, **like) * math.sqrt(sigma2)
    square, truth = data.mT @ data, teacher.double()[:, None]
    whole = square.sum(1)
    w = torch.cat([torch.zeros_like(start[..., :1]), start], dim=-1)
    for _ in range(k):
        ahead = w + rho * (square @ (w - truth))
        w = w - eta * (square @ (ahead - truth))
    answers = test @ w  # datasets, blocks, p, 1 + inits
    within = answers[..., 1:].var(-1).mean((1, 2))
    between = answers[..., 0].var(1, correction=0).mean(-1)
    values, vectors = torch.linalg.eigh(whole)
    slopes = vectors.mT @ (whole @ (w[..., :1].mean(1) - truth))
    return Simulation(within + between, quadratic_rise(values, slopes[..., 0], rho0))
