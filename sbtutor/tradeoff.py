"""Sharpness against diversity: what the rows of a results table are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

SHARPNESS = {
    "worst_case_l2": "adaptive worst case, l2",
    "worst_case_linf": "adaptive worst case, l∞",
    "average_rise": "adaptive average rise",
    "sam_rise": "SAM rise",
    "hessian_trace": "Hessian trace",
    "top_eigenvalue": "top Hessian eigenvalue",
    "fisher_trace": "Fisher trace",
}
DIVERSITY = {
    "der": "DER",
    "disagreement": "disagreement",
    "prob_variance": "variance of probabilities",
    "logit_variance": "variance of logits",
    "kl": "KL",
    "js": "JS",
    "eir": "EIR",
}
QUALITY = {"accuracy": "ensemble accuracy", "member_accuracy": "member accuracy"}
IMAGES = {"test": "clean", "shift": "shifted"}
KINDS = ("DE", "SAM", "SharpBalance")  # the first shapes; others follow
EVERY = "all"  # of k


def names(runs: pd.DataFrame | None, measures: Mapping[str, str]) -> dict[str, str]:
    """The words for those measures that a table has, by column; None has all.

    Measures of sharpness are of the training images, others of clean and of shifted
    test images.
    """
    words = {}
    for name, told in measures.items():
        if name in SHARPNESS:
            words[name] = told
        else:
            words |= {f"{i}_{name}": f"{told}, {w}" for i, w in IMAGES.items()}
    return {c: w for c, w in words.items() if runs is None or c in runs}


def describe(runs: pd.DataFrame) -> pd.DataFrame:
    """What each row of a results table is.

    Args:
        runs: one row a run, as `results.table` gives them, or a committed table. Needs
            the column `method`; `rho`, `sam_fraction`, `split`, `number` and `seed`
            count where they are there.

    Returns:
        `kind`: DE, SAM, SharpBalance, or the rule of another split; `rho`, 0 for
        plain gradient steps; `k`, the share of samples that SharpBalance picks, NaN
        for other methods; `name`, all three in words; `number` of the run.

    Raises:
        ValueError: the table has no rows, or no column `method`.
    """
    if len(runs) == 0 or "method" not in runs:
        raise ValueError(
            "the trade-off explorer shows a table with one row a run and a column "
            f"`method`, got {len(runs)} rows with {', '.join(runs) or 'no columns'}; "
            "make one with results.table(folder) or results.committed(name)"
        )
    method = runs["method"].to_numpy(dtype=str)
    balanced = method == "sharpbalance"
    split = runs["split"].to_numpy(dtype=str) if "split" in runs else np.array("paper")
    kind = np.where(method == "sgd", "DE", np.where(method == "sam", "SAM", method))
    ours = np.where(split == "paper", "SharpBalance", split)
    kind = np.where(balanced, ours, kind).astype(object)
    rho = np.where(method == "sgd", 0.0, runs.get("rho", 0.0))
    k = np.where(balanced, runs.get("sam_fraction", np.nan), np.nan)
    told = [
        f"{a}{f' {b:g}' if b else ''}{f', k {c:g}' if c == c else ''}"
        for a, b, c in zip(kind, rho, k)
    ]
    at = runs["number"] if "number" in runs else np.arange(len(runs))
    about = dict(kind=kind, rho=rho, k=k, name=told, number=np.asarray(at))
    return pd.DataFrame(about, index=runs.index)


def means(groups: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each group and half its 95 % t-interval, which is 0 with one value.

    Args:
        groups: the group of each value, counted from 0.
        values: numbers, of shape (V,).
    """
    n = np.bincount(groups)
    mean = np.bincount(groups, values) / n
    squares = np.bincount(groups, (values - mean[groups]) ** 2)
    freedom = np.maximum(n - 1, 1)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(squares / freedom / n)
    return mean, np.where(n > 1, half, 0)


def chosen(
    runs: pd.DataFrame,
    about: pd.DataFrame,
    rho: float | None = None,
    k: float | str = EVERY,
    **equal: Any,
) -> np.ndarray:
    """Which rows the controls leave, as bools.

    Args:
        runs: the table.
        about: what `describe` says of it.
        rho: the largest radius, None for all.
        k: the one share of SharpBalance, `EVERY` for all. DE and SAM always stay.
        equal: further columns of the table and the value that they must have.
    """
    keep = np.ones(len(runs), dtype=bool)
    if rho is not None:
        keep &= about["rho"].to_numpy() <= rho + 1e-9
    if k != EVERY:
        share = about["k"].to_numpy()
        keep &= np.isnan(share) | np.isclose(share, k)
    for column, value in equal.items():
        keep &= (runs[column] == value).to_numpy()
    return keep
