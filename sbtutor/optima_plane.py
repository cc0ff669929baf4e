"""The diversity-accuracy plane around one optimum (Fort et al. 2019)."""

import numpy as np
import torch

from sbtutor import landscape, subspace
from sbtutor.optima import LOSS, Optima

WALK = torch.logspace(-2, 0, 24)  # strengths, as shares of a sampler's reach
# Under one image's worth, over rounding: a loss of just a point counts.
EDGE = 2e-5


def plane_rows(optima: Optima, reference: int) -> list[dict[str, float | int | str]]:
    """The diversity-accuracy plane around one optimum: one row a network."""
    others = [m for m in range(len(optima.points)) if m != reference]
    seen = {"optima": (torch.full((len(others),), torch.nan), optima.ends[others])}
    for method in subspace.SAMPLERS:
        strengths = subspace.REACH[method] * WALK
        points = optima.draw(method, reference, strengths, "plane")
        seen[method] = (strengths, optima.logits(points))
    return [
        {
            "reference": reference,
            "method": method,
            "strength": strength,
            "accuracy": accuracy,
            "normalized_disagreement": height,
        }
        for method, (strengths, logits) in seen.items()
        for strength, accuracy, height in zip(
            strengths.tolist(),
            optima.accuracy(logits).tolist(),
            landscape.normalized_disagreement(
                optima.ends[reference], logits, optima.few.labels
            ).tolist(),
            strict=True,
        )
    ]


def smooth(values: np.ndarray, rises: bool) -> np.ndarray:
    """The nearest values that only rise, or only fall, along the strengths."""
    from sklearn.isotonic import isotonic_regression  # slow to import, and only here

    return isotonic_regression(values, increasing=rises)


def plane_row(rows: list[dict], best: float, classes: int) -> dict[str, float]:
    """Heights and limits around one optimum of accuracy `best`.

    Height is disagreement per error. Each sampler's accuracy and height are smoothed
    along its strengths, from the optimum itself, (best, 0), on. `gap_*`: mean height of
    the other optima less the sampler's where it has lost a point of accuracy.
    `price_*`: accuracy that it has lost where it is as high as they are (if it never is
    within its reach: what it has lost there, which is too little). Over all references
    the other optima are, on average, as accurate as the reference.
    `place_*`: 0 on the lower limit curve, 1 on the upper; of samplers where they have
    lost a point.
    """
    points = {
        method: np.array(
            [
                (r["accuracy"], r["normalized_disagreement"])
                for r in rows
                if r["method"] == method
            ]
        )
        for method in ("optima", *subspace.SAMPLERS)
    }

    def place(accuracy: np.ndarray, height: np.ndarray) -> float:
        upper, lower = landscape.limit_curves(best, classes, torch.tensor(accuracy))
        return ((height - lower.numpy()) / (upper - lower).numpy()).mean()

    optima = points.pop("optima")
    found, level = {"place_optima": place(*optima.T)}, optima[:, 1].mean()
    for method, values in points.items():
        accuracy = smooth(np.array([best, *values[:, 0]]), rises=False)
        height = smooth(np.array([0, *values[:, 1]]), rises=True)
        # Steps too small to matter, so that equal values have an order.
        steps = 1e-9 * np.arange(len(height))
        cost, height = best - accuracy + steps, height + steps
        reached = np.interp(LOSS + EDGE, cost, height)
        found[f"gap_{method}"] = level - reached
        found[f"price_{method}"] = np.interp(level, height, cost)
        found[f"place_{method}"] = place(np.array([best - LOSS]), np.array([reached]))
    return {name: float(value) for name, value in found.items()}
