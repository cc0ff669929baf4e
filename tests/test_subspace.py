"""Samples around an optimum have the moments and the span that are stated."""

import pytest
import torch

from sbtutor import subspace

S, P, T = 4000, 12, 8
FORMS = ["pca", "swag"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def trajectory(rows: int = T, columns: int = P) -> torch.Tensor:
    """Checkpoints that differ much in some parameters and little in others."""
    spread = torch.linspace(0.1, 2, columns, dtype=torch.float64)
    return 3 + normal(rows, columns) * spread


def same(value: float, count: int = S) -> torch.Tensor:
    return torch.full((count,), value, dtype=torch.float64)


def assert_mean(samples: torch.Tensor, expected: torch.Tensor) -> None:
    """Each column's mean is within 4 standard errors."""
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - expected).abs() <= 4 * error).all()


SAMPLERS = {
    "random": lambda x, s, g: subspace.random_directions(x[0], s, g),
    "dropout": lambda x, s, g: subspace.dropout(x[0], s, g),
    "diagonal": subspace.diagonal_gaussian,
    "pca": subspace.low_rank_gaussian,
    "swag": lambda x, s, g: subspace.low_rank_gaussian(x, s, g, form="swag"),
    "both": subspace.swag,
    "accepted": lambda x, s, g: subspace.accepted_directions(
        x[0], 1.0, len(s), lambda w: torch.ones(len(w)), 0.5, g
    ),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


@every_sampler
def test_the_generator_decides_the_samples(sampler):
    a, b, c = (sampler(trajectory(), same(0.3, 5), seeded(s)) for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@every_sampler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_have_the_points_dtype_whatever_the_strengths(sampler, dtype):
    x = trajectory().to(dtype)
    before = x.clone()
    for strengths in (same(0.3, 5), same(0.3, 5).float()):
        points = sampler(x, strengths, seeded())
        assert points.dtype == dtype
        assert points.shape == (5, P)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "name", ["random", "dropout", "diagonal", "pca", "swag", "both"]
)
def test_strength_0_gives_the_middle_and_each_row_has_its_own_strength(name):
    x = trajectory()
    center = x[0] if name in ("random", "dropout") else x.mean(0)
    strengths = torch.tensor([0, 0.9, 0, 0.1]).double()
    away = (SAMPLERS[name](x, strengths, seeded()) - center).norm(dim=1)
    torch.testing.assert_close(away[[0, 2]], torch.zeros(2).double())
    assert away[1] > away[3] > 0.01


def test_random_directions_have_the_stated_lengths():
    center, radii = normal(P), torch.linspace(0.1, 70, 50).double()
    steps = subspace.random_directions(center, radii, seeded()) - center
    torch.testing.assert_close(steps.norm(dim=1), radii)


def test_random_directions_are_uniform_over_all_parameters_together():
    """E u = 0 and E u u' = I / P, to 4 standard errors: no parameter stands out."""
    u = subspace.random_directions(normal(P), same(1.0), seeded()) - normal(P)
    assert_mean(u, torch.zeros(P).double())
    products = (u[:, :, None] * u[:, None, :]).flatten(1)
    assert_mean(products, torch.eye(P).double().flatten() / P)


def test_accepted_directions_are_uniform_in_length_where_all_are_kept():
    """t / radius ~ U(0, 1): mean 1/2, mean square 1/3."""
    center = normal(P)
    points = subspace.accepted_directions(
        center, 10.0, S, lambda w: torch.ones(len(w)), 0.7, seeded()
    )
    t = (points - center).norm(dim=1, keepdim=True) / 10
    assert_mean(torch.cat([t, t**2], 1), torch.tensor([1 / 2, 1 / 3]).double())
    assert t.max() < 1


class Judge:
    """Accuracy falls with the distance from 0: 1 - ||w|| / 10; counts its calls."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(points))
        return 1 - points.norm(dim=1) / 10


def test_accepted_directions_keep_only_what_is_accurate():
    """Accuracy 0.7 is a distance of at most 3; 5 tries fail with 0.7^5 = 17 %."""
    judge = Judge()
    points = subspace.accepted_directions(
        torch.zeros(P), 10.0, 1000, judge, 0.7, seeded()
    )
    assert (points.norm(dim=1) <= 3).all()
    share = 1 - 0.7**5
    assert abs(len(points) / 1000 - share) < 4 * (share * (1 - share) / 1000) ** 0.5
    assert judge.asked[0] == 1000
    assert len(judge.asked) == 5


def test_a_round_asks_only_for_the_samples_that_are_still_missing():
    judge = Judge()

    def accuracy(points):
        """The first two of each round pass."""
        judge(points)
        return (torch.arange(len(points)) < 2).float()

    points = subspace.accepted_directions(
        torch.zeros(P), 1.0, 7, accuracy, 0.5, seeded(), tries=3
    )
    assert judge.asked == [7, 5, 3]
    assert len(points) == 6


def test_no_more_rounds_once_all_samples_are_there():
    judge = Judge()
    points = subspace.accepted_directions(
        torch.zeros(P), 1.0, 30, judge, 0.5, seeded(), tries=5
    )
    assert judge.asked == [30]
    assert len(points) == 30


def test_an_accuracy_of_exactly_least_is_accepted():
    points = subspace.accepted_directions(
        torch.zeros(P), 1.0, 3, lambda w: torch.full((len(w),), 0.7), 0.7, seeded()
    )
    assert len(points) == 3


def test_dropout_keeps_entries_scaled_at_the_stated_rate():
    center, rates = normal(P), torch.tensor([0.0, 0.1, 0.5]).double()
    points = subspace.dropout(center, rates.repeat_interleave(S), seeded())
    for p, part in zip(rates, points.split(S)):
        dropped = part == 0
        torch.testing.assert_close(
            part, torch.where(dropped, 0, center / (1 - p)).expand(S, P)
        )
        assert_mean(dropped.double(), p.expand(P))


def test_dropout_is_unbiased():
    center = normal(P)
    assert_mean(subspace.dropout(center, same(0.3), seeded()), center)


def test_dropout_masks_are_independent_of_each_other():
    """Cov(b_i, b_j) = 0 over samples and parameters."""
    kept = (subspace.dropout(same(1.0, P), same(0.3), seeded()) > 0).double() - 0.7
    products = kept[:, :, None] * kept[:, None, :]
    apart = products[:, *torch.triu_indices(P, P, 1)]
    assert_mean(apart, torch.zeros(P * (P - 1) // 2).double())


def test_diagonal_gaussian_has_the_checkpoints_mean_and_deviation():
    """(w - mean) / sigma has mean 0 and variance s^2, and no correlations."""
    x, s = trajectory(), 1.5
    points = subspace.diagonal_gaussian(x, same(s), seeded())
    sigma = torch.from_numpy(x.numpy().std(0))  # numpy's default, as the authors
    z = (points - x.mean(0)) / sigma / s
    assert_mean(z, torch.zeros(P).double())
    products = (z[:, :, None] * z[:, None, :]).flatten(1)
    assert_mean(products, torch.eye(P).double().flatten())


def principal(x: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest eigenvalues and eigenvectors of the P x P sample covariance."""
    variances, axes = torch.linalg.eigh(x.T.cov())
    return variances.flip(0)[:rank], axes.flip(1)[:, :rank]


def factor(x, rank, form, s=1.0):
    """A with w = mean + z A, from the samples of a known z."""
    z = torch.randn(50, rank, generator=seeded(), dtype=x.dtype)
    points = subspace.low_rank_gaussian(x, same(s, 50), seeded(), rank, form)
    return torch.linalg.lstsq(z, points - x.mean(0)).solution


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6)]
)
def test_low_rank_samples_lie_in_the_span_of_the_checkpoints(form, dtype, bound):
    """What the projection on the centred checkpoints leaves is rounding."""
    x = trajectory(rows=10, columns=5000).to(dtype)
    points = subspace.low_rank_gaussian(x, same(6.0, 20), seeded(), form=form)
    exact = x.double()
    basis = torch.linalg.qr((exact - exact.mean(0)).T).Q[:, :9]
    steps = points.double() - exact.mean(0)
    left = steps - steps @ basis @ basis.T
    assert (left.norm(dim=1) <= bound * points.double().norm(dim=1)).all()
    assert (steps.norm(dim=1) > 1).all()


@pytest.mark.parametrize("s", [1.0, 6.0])
@pytest.mark.parametrize("rank", [1, 3, T - 1])
def test_pca_spreads_s_in_each_of_the_principal_directions(rank, s):
    """Its covariance A' A is s^2 times the projection on the first eigenvectors."""
    x = trajectory()
    a = factor(x, rank, "pca", s)
    _, axes = principal(x, rank)
    torch.testing.assert_close(a.T @ a, s**2 * axes @ axes.T)


@pytest.mark.parametrize("s", [1.0, 0.5])
@pytest.mark.parametrize("rank", [1, 3, T - 1])
def test_swag_has_the_best_covariance_of_its_rank(rank, s):
    x = trajectory()
    a = factor(x, rank, "swag", s)
    variances, axes = principal(x, rank)
    torch.testing.assert_close(a.T @ a, s**2 * (axes * variances) @ axes.T)


def test_swag_of_full_rank_has_the_sample_covariance():
    x = trajectory()
    points = subspace.low_rank_gaussian(x, same(1.0), seeded(), T - 1, "swag")
    assert_mean(points, x.mean(0))
    steps = points - x.mean(0)
    products = (steps[:, :, None] * steps[:, None, :]).flatten(1)
    assert_mean(products, x.T.cov().flatten())


@pytest.mark.parametrize("s", [1.0, 0.5])
def test_both_halves_of_swag_have_the_mean_of_their_covariances(s):
    """(diag(population variance) + sample covariance) / 2, to 4 standard errors."""
    x = trajectory()
    points = subspace.swag(x, same(s, 4 * S), seeded())
    assert_mean(points, x.mean(0))
    steps = points - x.mean(0)
    products = (steps[:, :, None] * steps[:, None, :]).flatten(1)
    diagonal = torch.from_numpy(x.numpy().var(0)).diag()
    assert_mean(products, s**2 * (diagonal + x.T.cov()).flatten() / 2)


def test_the_halves_of_swag_are_drawn_apart():
    """Off the checkpoints' span lies the diagonal half only: its share is halved."""
    x = trajectory(rows=3, columns=P)
    points = subspace.swag(x, same(1.0), seeded()) - x.mean(0)
    span = torch.linalg.qr((x - x.mean(0)).T).Q[:, :2]
    apart = torch.eye(P).double() - span @ span.T
    left = (points @ apart).square().sum(1, keepdim=True)
    diagonal = x.var(0, correction=0).diag()
    assert_mean(left, (apart @ diagonal @ apart).trace() / 2)


def test_only_swag_notices_how_far_the_checkpoints_lie_apart():
    x = trajectory()
    wide = x.mean(0) + 10 * (x - x.mean(0))
    for form, ratio in (("pca", 1), ("swag", 10)):
        a, b = (
            subspace.low_rank_gaussian(y, same(1.0, 9), seeded(), 3, form) - x.mean(0)
            for y in (x, wide)
        )
        lengths = b.norm(dim=1) / a.norm(dim=1)
        torch.testing.assert_close(lengths, torch.full_like(lengths, ratio))


@pytest.mark.parametrize("form", FORMS)
def test_low_rank_samples_do_not_depend_on_the_checkpoints_order(form):
    x = trajectory()
    a, b = (factor(y, 3, form) for y in (x, x.flip(0)))
    torch.testing.assert_close(a.T @ a, b.T @ b)


def test_average_is_the_mean_of_the_checkpoints():
    x = trajectory()
    torch.testing.assert_close(subspace.average(x), sum(x) / T)
    assert torch.equal(subspace.average(x[:1]), x[0])
    assert subspace.average(x.float()).dtype == torch.float32


def points_of_wrong_kind():
    x = trajectory()
    infinite, nan = x.clone(), x.clone()
    infinite[1, 2], nan[0, 0] = torch.inf, torch.nan
    vector = "one vector"
    return {
        "center is 2-d": ("random", [x], rf"{vector} \(P,\), got \(8, 12\)"),
        "center is empty": ("dropout", [x[0, :0]], rf"{vector} \(P,\), got \(0,\)"),
        "center is half": ("random", [x[0].half()], "64 bits.*float16; write center"),
        "center is NaN": ("dropout", [nan[0]], "center must be finite"),
        "1-d": ("diagonal", x[0], r"\(T, P\), one row.*got \(12,\); write stack"),
        "one": ("diagonal", x[:1], r"T >= 2, got \(1, 12\)"),
        "one, low rank": ("swag", x[:1], r"T >= 2, got \(1, 12\)"),
        "empty": ("pca", x[:, :0], r"got \(8, 0\)"),
        "one, both halves": ("both", x[:1], r"T >= 2, got \(1, 12\)"),
        "infinite, both halves": ("both", infinite, "checkpoints must be finite"),
        "half": ("pca", x.bfloat16(), "bfloat16; write checkpoints.float"),
        "integers": ("diagonal", x.long(), "64 bits a number, got torch.int64"),
        "infinite": ("swag", infinite, "checkpoints must be finite.*diverged"),
    }


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "points", "message"),
    points_of_wrong_kind().values(),
    ids=points_of_wrong_kind(),
)
def test_wrong_points_are_refused(name, points, message):
    with pytest.raises(ValueError, match=message):
        SAMPLERS[name](points, same(0.5, 3), seeded())


@pytest.mark.usefixtures("unchecked")
def test_average_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"T >= 1, got \(0, 12\)"):
        subspace.average(trajectory()[:0])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("sampler", "values", "message"),
    [
        ("random", [1.0, -2.0], r"radii must be in \[0, inf\), got -2; 0 gives"),
        ("random", 1.0, r"radii must be \(S,\), one per sample, got \(\); for"),
        ("dropout", [0.1, 1.0], r"rates must be in \[0, 1\), got 1; 0 gives"),
        ("dropout", [-0.1], r"rates must be in \[0, 1\), got -0.1"),
        ("diagonal", [torch.nan], r"scales must be in \[0, inf\), got nan"),
        ("diagonal", [[1.0]], r"scales must be \(S,\).*got \(1, 1\)"),
        ("pca", [torch.inf], r"scales must be in \[0, inf\), got inf"),
        ("swag", [-1.0], r"scales must be in \[0, inf\), got -1"),
        ("both", [-1.0], r"scales must be in \[0, inf\), got -1"),
        ("both", 1.0, r"scales must be \(S,\), one per sample, got \(\)"),
    ],
)
def test_strengths_out_of_range_are_refused(sampler, values, message):
    with pytest.raises(ValueError, match=message):
        SAMPLERS[sampler](trajectory(), torch.tensor(values), seeded())


@pytest.mark.parametrize("rank", [0, T])
def test_a_rank_beyond_the_checkpoints_span_is_refused(rank):
    with pytest.raises(
        ValueError, match=rf"8 checkpoints span at most 7 directions.*rank={rank} \(5"
    ):
        subspace.low_rank_gaussian(trajectory(), same(1.0, 3), seeded(), rank)


def test_five_checkpoints_are_too_few_for_the_default_rank_which_is_named():
    message = (
        r"at most 4 directions.*got rank=5 \(5 is the default\); write rank=1 to 4"
    )
    with pytest.raises(ValueError, match=message):
        subspace.low_rank_gaussian(trajectory(rows=5), same(1.0, 3), seeded())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("different", [1, 3])
def test_checkpoints_that_repeat_others_give_no_directions(different, dtype):
    """k different checkpoints, however often, differ in k - 1 directions."""
    x = trajectory()[:different].repeat(4, 1).to(dtype)
    with pytest.raises(ValueError, match=f"differ in {different - 1} directions only"):
        subspace.low_rank_gaussian(x, same(1.0, 3), seeded(), different)
    for rank in range(1, different):
        subspace.low_rank_gaussian(x, same(1.0, 3), seeded(), rank)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="unknown form 'full': write 'pca' or 'swag'"):
        subspace.low_rank_gaussian(trajectory(), same(1.0, 3), seeded(), form="full")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": -1.0}, "write radius >= 0.*got radius=-1.0"),
        ({"radius": torch.inf}, "write radius >= 0.*got radius=inf"),
        ({"least": 70.0}, r"0.7 for 70 %\).*least=70.0"),
        ({"count": 0}, "count and tries >= 1.*count=0"),
        ({"tries": 0}, "count and tries >= 1.*tries=0"),
        (
            {"accuracy": lambda w: torch.tensor(0.9)},
            r"each of 3 points, got shape \(\)",
        ),
        ({"accuracy": lambda w: torch.ones(len(w)) * 0.25}, "best had 0.250; write a"),
        (
            {"accuracy": lambda w: w[:, 0] * torch.nan},
            "accuracy gave NaN or infinity, w",
        ),
        (
            {"accuracy": lambda w: torch.tensor([0.9, torch.inf, 0.2])},
            "accuracy gave NaN or infinity",
        ),
    ],
)
def test_acceptance_that_cannot_be_is_refused(change, message):
    settings = {
        "center": torch.zeros(P),
        "radius": 1.0,
        "count": 3,
        "accuracy": lambda w: torch.ones(len(w)),
        "least": 0.5,
        "generator": seeded(),
    }
    with pytest.raises(ValueError, match=message):
        subspace.accepted_directions(**settings | change)


def test_samplers_called_alike_are_the_four_with_one_in_two_forms():
    """Strengths of "random" are in units of the length of the optimum's weights."""
    late, strengths = trajectory(), torch.tensor([0.1, 0.2], dtype=torch.float64)
    center = late[-1]
    expected = {
        "random": subspace.random_directions(
            center, strengths * center.norm(), seeded()
        ),
        "dropout": subspace.dropout(center, strengths, seeded()),
        "diagonal": subspace.diagonal_gaussian(late, strengths, seeded()),
        "low rank": subspace.low_rank_gaussian(late, strengths, seeded()),
        "swag": subspace.low_rank_gaussian(late, strengths, seeded(), form="swag"),
    }
    assert set(subspace.SAMPLERS) == set(subspace.REACH) == set(expected)
    for name, sampler in subspace.SAMPLERS.items():
        found = sampler(center, late, strengths, seeded())
        assert torch.equal(found, expected[name])
