"""Figures of weight space and function space: similarity, trajectories, planes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sbtutor.plots import blank, short
from sbtutor.theme import GREY, TEMPLATE, look


def heatmaps(
    matrices: Mapping[str, np.ndarray], blocks: Sequence[str], title: str, unit: str
) -> go.Figure:
    """Square matrices side by side, their rows in equal blocks of neighbours.

    Args:
        matrices: by name, one to three of one size; each has its own colour scale.
        blocks: what each block of rows is; two or more, of two rows or more.
        title: what the figure shows.
        unit: what a row within a block is.

    Raises:
        ValueError: other matrices, or other blocks.
    """
    rows = _check_blocks(matrices, blocks)
    size, share = rows // len(blocks), 1 / len(matrices)
    figure = make_subplots(1, len(matrices), subplot_titles=list(matrices))
    words = []
    middles = [size * i + size / 2 - 0.5 for i in range(len(blocks))]
    for i, (name, values) in enumerate(matrices.items()):
        z = np.asarray(values, dtype=float)
        same = np.kron(np.eye(len(blocks)), np.ones((size, size))) > 0
        within = z[same & ~np.eye(rows, dtype=bool)].mean()
        words.append(
            f"{name}: mean within a block {short(within)}, between blocks "
            f"{short(z[~same].mean())}"
        )
        left, right = i * share + 0.03, (i + 1) * share - 0.07
        figure.add_heatmap(
            z=z.round(3),
            colorscale="Cividis",
            colorbar=dict(x=right, len=0.75, thickness=10),
            hovertemplate=f"row %{{y}}, column %{{x}}: %{{z:.3f}}<extra>{name}</extra>",
            row=1,
            col=i + 1,
        )
        axis = dict(tickvals=middles, ticktext=list(blocks), showgrid=False)
        figure.update_xaxes(domain=[left, right - 0.01], row=1, col=i + 1, **axis)
        figure.update_yaxes(autorange="reversed", row=1, col=i + 1, **axis)
        heading = figure.layout.annotations[i]
        heading.update(x=(left + right - 0.01) / 2, font_size=13)
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        width=min(60 + 350 * len(matrices), 960),
        height=420,
        margin=dict(t=90),
        meta={"alt": f"{title}. Rows: {unit}. {'; '.join(words)}."},
    )
    return figure


def _check_blocks(matrices: Mapping[str, np.ndarray], blocks: Sequence[str]) -> int:
    """The number of rows, if the matrices can be drawn in these blocks."""
    if not 1 <= len(matrices) <= 3:
        raise ValueError(
            f"one to three matrices fit side by side, got {len(matrices)}; draw "
            "several figures"
        )
    shapes = [np.shape(values) for values in matrices.values()]
    rows = shapes[0][0] if shapes[0] else 0
    if any(shape != (rows, rows) for shape in shapes):
        raise ValueError(
            f"matrices must be square and of one size, got {shapes}; draw others in "
            "figures of their own"
        )
    if len(blocks) < 2 or rows % len(blocks) or rows // len(blocks) < 2:
        raise ValueError(
            f"{rows} rows cannot be {len(blocks)} blocks: write two or more, all of "
            "as many rows, two at least"
        )
    return rows


def trajectories(
    paths: Mapping[str, np.ndarray],
    title: str,
    clouds: Mapping[str, np.ndarray] | None = None,
) -> go.Figure:
    """Paths in a flat map, each from an open star to a large mark, and loose points.

    Args:
        paths: by name, (T, 2) positions in order.
        title: what the figure shows.
        clouds: by name, (S, 2) positions without order.
    """
    words = [
        f"{name} goes from {_at(p[0])} to {_at(p[-1])}" for name, p in paths.items()
    ]
    words += [
        f"{name} lies around {_at(p.mean(0))}" for name, p in (clouds or {}).items()
    ]
    alt = f"{title}. A map without units: {', '.join(words)}."
    figure = blank(title, alt, "map axis 1 (no unit)", "map axis 2 (no unit)")
    figure.update_layout(height=480)
    for i, (name, path) in enumerate(paths.items()):
        mark = look(i)["marker"]
        sizes, symbols = [4] * len(path), ["circle"] * len(path)
        sizes[0] = sizes[-1] = 13
        symbols[0], symbols[-1] = "star-open", mark["symbol"]
        figure.add_scatter(
            x=path[:, 0].round(2),
            y=path[:, 1].round(2),
            mode="lines+markers",
            name=name,
            line=dict(color=mark["color"], width=1),
            marker=dict(color=mark["color"], size=sizes, symbol=symbols),
        )
    for i, (name, points) in enumerate((clouds or {}).items(), start=len(paths)):
        figure.add_scatter(
            x=points[:, 0].round(2),
            y=points[:, 1].round(2),
            mode="markers",
            name=name,
            marker={**look(i)["marker"], "size": 6, "opacity": 0.7},
        )
    return figure


def _at(point: np.ndarray) -> str:
    return f"({short(point[0])}, {short(point[1])})"


def diversity_accuracy(
    frame: pd.DataFrame,
    limits: tuple[Sequence, Sequence, Sequence],
    title: str,
) -> go.Figure:
    """Networks beside a reference: how accurate they are, how often they differ.

    Args:
        frame: one row a network: `method`, `accuracy`, `normalized_disagreement`.
        limits: accuracies, and the upper and lower limit curves at them.
        title: what the figure shows.
    """
    y_title = "disagreement with the reference / own error"
    words = "; ".join(
        f"{name} up to {short(part['normalized_disagreement'].max())}, accuracy "
        f"{short(part['accuracy'].min())} to {short(part['accuracy'].max())}"
        for name, part in frame.groupby("method", sort=False)
    )
    figure = blank(title, f"{title}. {y_title}: {words}.", "accuracy", y_title)
    figure.update_layout(height=480)
    accuracies, *curves = limits
    for curve, dash, name in zip(
        curves, ("dash", "dot"), ("independent errors", "flipped answers")
    ):
        figure.add_scatter(
            x=list(accuracies),
            y=list(curve),
            mode="lines",
            name=name,
            line=dict(color=GREY, dash=dash),
        )
    for i, (name, part) in enumerate(frame.groupby("method", sort=False)):
        figure.add_scatter(
            x=part["accuracy"].round(4),
            y=part["normalized_disagreement"].round(4),
            mode="markers",
            name=str(name),
            marker={**look(i)["marker"], "size": 8, "opacity": 0.8},
        )
    return figure
