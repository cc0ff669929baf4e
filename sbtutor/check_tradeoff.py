"""Checks of lesson 07's exercises on what is measured: DER, traces, correlations."""

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from sbtutor.feedback import exercise, of_numbers


def _differ(votes: Tensor) -> Tensor:
    """The share of samples on which two members differ, for each pair once."""
    pairs = combinations(votes, 2)
    return torch.stack([(a != b).double().mean() for a, b in pairs])


def _error(votes: Tensor, labels: Tensor) -> Tensor:
    return (votes != labels).double().mean()


def _der(votes: Tensor, labels: Tensor) -> Tensor:
    return _differ(votes).mean() / _error(votes, labels)


_NOT_DER: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "this is the disagreement; divide it by the members' mean error.": (
        lambda v, y: _differ(v).mean()
    ),
    "the pairs of a member with itself are in the mean; only i != j count.": (
        lambda v, y: _der(v, y) * (len(v) - 1) / len(v)
    ),
    "each pair counts once in your sum, but twice in what you divide it by.": (
        lambda v, y: _der(v, y) / 2
    ),
    "this is a sum over the pairs; take their mean.": (
        lambda v, y: _differ(v).sum() / _error(v, y)
    ),
    "this is a sum over the pairs, each taken twice; take their mean.": (
        lambda v, y: 2 * _differ(v).sum() / _error(v, y)
    ),
    "you divided by the error of the majority; DER divides by the mean error of the "
    "members.": lambda v, y: _differ(v).mean() / _error(v.mode(dim=0).values, y),
    "you divided by the sum of the members' errors; take their mean.": (
        lambda v, y: _der(v, y) / len(v)
    ),
    "you divided by the accuracy; divide by the error.": (
        lambda v, y: _differ(v).mean() / (1 - _error(v, y))
    ),
    "these are the answers that agree; count those that differ.": (
        lambda v, y: (1 - _differ(v).mean()) / _error(v, y)
    ),
    "it is upside down: disagreement over error.": lambda v, y: 1 / _der(v, y),
    "this is the first pair only; take the mean over all pairs.": (
        lambda v, y: _differ(v)[0] / _error(v, y)
    ),
}


@exercise("07")
def der(answer: Callable[[Tensor, Tensor], object]) -> str | None:
    """Votes (M, N) and labels (N,) to the disagreement-error ratio."""
    cases = [
        ([[0, 1, 2, 0, 1], [0, 2, 2, 1, 1], [1, 2, 0, 0, 1]], [0, 2, 1, 0, 2]),
        ([[0, 1, 1, 2], [1, 1, 1, 0], [0, 2, 1, 0], [0, 1, 0, 0]], [0, 1, 2, 0]),
    ]

    def right(votes: Tensor, labels: Tensor) -> Tensor:
        return _der(votes, labels)

    given = [(torch.tensor(votes), torch.tensor(y)) for votes, y in cases]
    return of_numbers(answer, given, "the DER", right, _NOT_DER)


@exercise("07")
def valley_trace(answer: Callable[[float], object]) -> str | None:
    """alpha to the trace of the Hessian of (a b - 1)^2 / 2 at (alpha, 1 / alpha)."""
    return of_numbers(
        answer,
        [(3.0,), (0.25,)],
        "the trace",
        lambda alpha: alpha**2 + alpha**-2,
        {
            "there is a factor 2 too many; the loss has 1/2 in front.": (
                lambda alpha: 2 * (alpha**2 + alpha**-2)
            ),
            "this is the sum of all entries; the trace is the sum of the diagonal.": (
                lambda alpha: alpha**2 + alpha**-2 + 2
            ),
            "this is 0, as the gradient, the loss and the determinant are at this "
            "place; take second derivatives, and their sum on the diagonal.": (
                lambda alpha: 0.0
            ),
            "this is the second derivative in b only; add the one in a.": (
                lambda alpha: alpha**2
            ),
            "this is the second derivative in a only; add the one in b.": (
                lambda alpha: alpha**-2
            ),
            "the second derivatives have squares: b^2 and a^2.": (
                lambda alpha: alpha + 1 / alpha
            ),
            "this is the mean of the diagonal; the trace is its sum.": (
                lambda alpha: (alpha**2 + alpha**-2) / 2
            ),
            "this is the trace at (1, 1) only; put in a = alpha and b = 1 / alpha.": (
                lambda alpha: 2.0
            ),
            "this is the trace at (alpha, alpha); b is 1 / alpha.": (
                lambda alpha: 2 * alpha**2
            ),
        },
    )


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([x, y]))[0, 1]


def _rows(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([_correlation(a, b) for a, b in zip(x, y)])


_NOT_WITHIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "this is the correlation of all numbers at once; what rho does to both is in it. "
    "Correlate within each row.": lambda x, y: _correlation(x.ravel(), y.ravel()),
    "the axis is wrong: this correlates along rho, for each seed. Correlate over the "
    "seeds, within a row.": lambda x, y: _rows(x.T, y.T).mean(),
    "this correlates the means of the rows; correlate within each row, then take the "
    "mean.": lambda x, y: _correlation(x.mean(1), y.mean(1)),
    "this is the covariance, not normalised; divide by both standard deviations.": (
        lambda x, y: torch.stack(
            [torch.cov(torch.stack(pair))[0, 1] for pair in zip(x, y)]
        ).mean()
    ),
    "this is the sum over the radii; take the mean.": lambda x, y: _rows(x, y).sum(),
    "this is the first radius only; take the mean over all.": (
        lambda x, y: _rows(x, y)[0]
    ),
    "you took absolute values; a negative correlation counts as negative.": (
        lambda x, y: _rows(x, y).abs().mean()
    ),
    "the sign is wrong.": lambda x, y: -_rows(x, y).mean(),
    "this is the mean of the squares; do not square.": (
        lambda x, y: _rows(x, y).square().mean()
    ),
}


@exercise("07")
def correlation_within(answer: Callable[[Tensor, Tensor], object]) -> str | None:
    """x and y (R, S), of R radii and S seeds, to the mean correlation over seeds."""
    draw = torch.Generator().manual_seed(0)
    cases = []
    for radii, seeds in ((3, 5), (4, 6)):
        falls = torch.arange(radii, 0, -1)[:, None].double()
        x, y = torch.randn(2, radii, seeds, generator=draw).double()
        cases.append(((falls + x / 2).round(decimals=1), (falls + y).round(decimals=1)))

    def right(x: Tensor, y: Tensor) -> Tensor:
        return _rows(x, y).mean()

    return of_numbers(answer, cases, "the correlation", right, _NOT_WITHIN)
