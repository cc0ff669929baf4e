"""The figure of the trade-off explorer.

It is drawn anew while a slider moves: few traces, and no loop over runs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sbtutor import album, theme
from sbtutor.describe import number
from sbtutor.tradeoff import (
    DIVERSITY,
    EVERY,
    KINDS,
    QUALITY,
    SHARPNESS,
    chosen,
    describe,
    means,
    names,
)


def tradeoff_figure(
    runs: pd.DataFrame,
    x: str = "worst_case_l2",
    y: str = "test_der",
    colour: str = "test_accuracy",
    rho: float | None = None,
    k: float | str = EVERY,
    run: int | None = None,
    **equal: Any,
) -> go.Figure:
    """Runs as small points, their means with 95 % intervals as large ones.

    The shape says the method, the colour how good the ensembles are. A dotted line
    joins the means of DE and SAM in the order of rho. Axes and colours are those of the
    whole table, so that they stay when the choice changes.

    Args:
        runs: as in `describe`.
        x: the column across, a measure of sharpness.
        y: the column upwards, a measure of diversity.
        colour: the column of the colour, an accuracy.
        rho: shows the runs with rho up to this; None shows all.
        k: shows SharpBalance with this share only; "all" shows each.
        run: the number of a run, which gets a ring.
        equal: further columns and the value that they must have, as `members=3`.

    Raises:
        ValueError: as `describe`; the table lacks a column; a run comes twice.
    """
    lacking = [c for c in (x, y, colour, *equal) if c not in runs]
    if lacking:
        raise ValueError(
            f"the table has no column {', '.join(lacking)}; it has {', '.join(runs)}"
        )
    about = describe(runs)
    numbers = runs[[x, y, colour]].to_numpy(dtype=float)
    whole = np.isfinite(numbers).all(1)
    at = np.flatnonzero(whole & chosen(runs, about, rho, k, **equal))
    part, values = about.iloc[at], numbers[at]
    if part["number"].duplicated().any():  # its intervals would count it twice
        raise ValueError(
            "the table has several rows a run, such as one for each number of members; "
            "choose one of them, as in members=3"
        )
    shapes = _shapes(about["kind"])
    traces = _points(part, values, shapes) + _means(part, values, shapes)
    ring = at[part["number"].to_numpy() == run] if run is not None else at[:0]
    if len(ring):
        traces.append(_ring(numbers[ring[0]], about["name"].iloc[ring[0]]))
    words = {c: _words(runs, c) for c in (x, y, colour)}
    title = f"{words[y]} against {words[x]}"
    return album.figure(
        traces,
        title,
        _alt(title, part, values, words[colour]),
        f"{words[x]} (sharper to the right)",
        f"{words[y]} (more diverse upwards)",
        width=760,
        height=500,
        xaxis=dict(range=_reach(numbers[whole, 0])),
        yaxis=dict(range=_reach(numbers[whole, 1])),
        legend=dict(orientation="h", x=0, y=1.0, yanchor="bottom"),
        margin=dict(l=60, r=20, t=85, b=50),
        coloraxis=dict(
            colorscale="Cividis",
            cmin=numbers[whole, 2].min() if whole.any() else 0,
            cmax=numbers[whole, 2].max() if whole.any() else 1,
            colorbar=dict(title=dict(text=words[colour], side="right"), thickness=14),
        ),
    )


def _words(runs: pd.DataFrame, column: str) -> str:
    return names(runs, SHARPNESS | DIVERSITY | QUALITY).get(column, column)


def _shapes(kinds: pd.Series) -> dict[str, str]:
    """The marker of each kind, the same in every figure of a table."""
    order = [*KINDS, *sorted(set(kinds) - set(KINDS))]
    return {kind: theme.SHAPES[i % len(theme.SHAPES)] for i, kind in enumerate(order)}


def _reach(values: np.ndarray) -> list[float]:
    """A little more than the range of the values."""
    if not len(values):
        return [0, 1]
    low, high = values.min(), values.max()
    room = 0.06 * (high - low) or 0.06 * abs(high) or 1
    return [low - room, high + room]


def _list(values: np.ndarray) -> list[float]:
    return [float(f"{v:.5g}") for v in values]


def _points(
    part: pd.DataFrame, values: np.ndarray, shapes: Mapping[str, str]
) -> list[dict]:
    """One trace a kind; each point's `customdata` is the number of its run.

    The legend has traces of its own: plotly would take the first number there for a
    colour.
    """
    traces = []
    kinds, seen = part["kind"].to_numpy(), set(part["kind"])
    for kind in (kind for kind in shapes if kind in seen):
        at = kinds == kind
        across, up, tint = values[at].T
        traces.append(
            dict(
                type="scatter",
                mode="markers",
                x=_list(across),
                y=_list(up),
                customdata=part["number"].to_numpy()[at].tolist(),
                text=part["name"].to_numpy()[at].tolist(),
                hovertemplate="%{text}<br>(%{x}, %{y})<extra>click: close-up</extra>",
                name=kind,
                legendgroup=kind,
                showlegend=False,
                marker=dict(
                    symbol=shapes[kind],
                    size=9,
                    opacity=0.75,
                    color=_list(tint),
                    coloraxis="coloraxis",
                    line=dict(width=1, color=theme.GREY),
                ),
            )
        )
        traces.append(
            dict(
                type="scatter",
                mode="markers",
                x=[None],
                y=[None],
                name=kind,
                legendgroup=kind,
                marker=dict(symbol=shapes[kind], size=9, color=theme.GREY),
            )
        )
    return traces


def _means(
    part: pd.DataFrame, values: np.ndarray, shapes: Mapping[str, str]
) -> list[dict]:
    """Means of the groups with more than one run, and the line from DE along SAM."""
    if not len(part):
        return []
    found, first, groups = np.unique(
        part["name"].to_numpy(dtype=str), return_index=True, return_inverse=True
    )
    (across, across_half), (up, up_half), (tint, _) = (
        means(groups, column) for column in values.T
    )
    kinds, rho = part["kind"].to_numpy()[first], part["rho"].to_numpy()[first]
    path = np.flatnonzero(np.isin(kinds, ("DE", "SAM")))
    path = path[rho[path].argsort()]
    several = np.flatnonzero(np.bincount(groups) > 1)
    bar = dict(thickness=1, width=3, color=theme.GREY)
    line = dict(color=theme.GREY, width=1, dash="dot")
    shared = dict(type="scatter", showlegend=False)
    return [
        shared
        | dict(x=_list(across[path]), y=_list(up[path]), mode="lines", line=line)
        | dict(hoverinfo="skip", name="from DE along SAM"),
        shared
        | dict(
            x=_list(across[several]),
            y=_list(up[several]),
            error_x=bar | dict(array=_list(across_half[several])),
            error_y=bar | dict(array=_list(up_half[several])),
            mode="markers",
            text=found[several].tolist(),
            hovertemplate="%{text}<br>(%{x}, %{y})<extra>mean, 95 % interval</extra>",
            name="means",
            marker=dict(
                symbol=[shapes[kind] for kind in kinds[several]],
                size=15,
                color=_list(tint[several]),
                coloraxis="coloraxis",
                line=dict(width=1.5, color=theme.GREY),
            ),
        ),
    ]


def _ring(values: np.ndarray, name: str) -> dict:
    return dict(
        type="scatter",
        x=_list(values[:1]),
        y=_list(values[1:2]),
        mode="markers",
        marker=dict(
            symbol="circle-open", size=24, color=theme.COLOURS[1], line=dict(width=3)
        ),
        hoverinfo="skip",
        name=f"chosen: {name}",
    )


def _alt(title: str, part: pd.DataFrame, values: np.ndarray, tint: str) -> str:
    """The figure in words: how many runs, and where the means lie."""
    if not len(part):
        return f"{title}. No run is left by the controls."
    found, groups = np.unique(part["name"].to_numpy(dtype=str), return_inverse=True)
    columns = [
        [number(mean) + (f" ± {number(half, 2)}" if half else "") for mean, half in m]
        for m in (zip(*means(groups, column)) for column in values.T)
    ]
    rows = list(zip(found, *columns))[:30]
    told = "; ".join(f"{name} at ({a}, {b}), {c}" for name, a, b, c in rows)
    what = f"Means with 95 % intervals, and {tint}"
    return f"{title}. {len(part)} runs. {what}: {told}."
