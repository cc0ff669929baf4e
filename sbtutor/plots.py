"""Figures: each function takes a table or tensors and returns a plotly `Figure`.

Their looks are those of `theme`. Each figure carries a text alternative in
`layout.meta`; `describe` has its numbers as a table.
"""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from sbtutor import describe
from sbtutor.theme import GREY, TEMPLATE, look


def blank(title: str, alt: str, x: str = "", y: str = "", **layout) -> go.Figure:
    """An empty figure in the course's style; `alt` says what it shows in words."""
    given = dict(template=TEMPLATE, width=700, height=400, meta={"alt": alt})
    words = {"title": title, "xaxis_title": x, "yaxis_title": y}
    words = {f"{name}_text": text for name, text in words.items()}
    figure = go.Figure(layout=given | words)  # at once: each update takes as long
    if layout:
        figure.update_layout(**layout)
    return figure


def short(value: float) -> str:
    """Three digits, for text alternatives."""
    return describe.number(value)


def lines(
    x: Sequence,
    series: Mapping[str, Sequence],
    title: str,
    x_title: str,
    y_title: str,
    bands: Mapping[str, tuple[Sequence, Sequence]] | None = None,
) -> go.Figure:
    """One line a series, with a shaded band where `bands` gives (low, high).

    Args:
        x: positions, shared by all series.
        series: values by name.
        title: what the figure shows.
        x_title: name and unit of x.
        y_title: name and unit of the values.
        bands: low and high by the same names, drawn as intervals.
    """
    ways = "; ".join(
        f"{name} {describe.trend(x, y, *(bands or {}).get(name, ()))}"
        for name, y in series.items()
    )
    alt = f"{title}. {y_title} against {x_title}: {ways}."
    figure = blank(title, alt, x_title, y_title)
    for i, (name, y) in enumerate(series.items()):
        style = look(i)
        if bands and name in bands:
            low, high = map(list, bands[name])
            figure.add_scatter(
                x=[*x, *reversed(list(x))],
                y=[*high, *reversed(low)],
                fill="toself",
                fillcolor=style["line"]["color"],
                opacity=0.3,
                line=dict(width=1, color=style["line"]["color"]),
                hoverinfo="skip",
                showlegend=False,
                mode="lines",
            )
        figure.add_scatter(
            x=list(x), y=list(y), name=name, mode="lines+markers", **style
        )
    return figure


def intervals(
    frame: pd.DataFrame, title: str, value_title: str, points: str | None = None
) -> go.Figure:
    """Means with 95 % intervals, one row a method; single runs as small dots.

    Args:
        frame: columns `method`, `mean`, `low`, `high`, in the order to show.
        title: what the figure shows.
        value_title: name and unit of the values.
        points: name of a column with each method's list of single values, or None.
    """
    rows = frame.to_dict("records")
    words = "; ".join(
        f"{r['method']} {short(r['mean'])} {describe.interval(r['low'], r['high'])}"
        for r in rows
    )
    alt = f"{title}. {value_title}, mean and 95 % interval: {words}."
    figure = blank(title, alt, value_title, height=120 + 45 * len(rows))
    for i, row in enumerate(rows):
        style = look(i)
        if points:
            values = row[points]
            figure.add_scatter(
                x=values,
                y=[row["method"]] * len(values),
                mode="markers",
                marker=dict(color=style["marker"]["color"], size=5, opacity=0.4),
                showlegend=False,
                name=row["method"] + describe.SINGLE,
                hoverinfo="x",
            )
        figure.add_scatter(
            x=[row["mean"]],
            y=[row["method"]],
            error_x=dict(
                type="data",
                symmetric=False,
                array=[row["high"] - row["mean"]],
                arrayminus=[row["mean"] - row["low"]],
            ),
            mode="markers",
            marker={**style["marker"], "size": 11},
            showlegend=False,
            name=row["method"],
        )
    figure.update_yaxes(autorange="reversed")
    return figure


def scatter(
    frame: pd.DataFrame,
    x: str,
    y: str,
    group: str,
    title: str,
    x_title: str,
    y_title: str,
    connect: Sequence[str] = (),
) -> go.Figure:
    """One point a run and a large mean point with 95 % bars for each group.

    Args:
        frame: one row a run.
        x: column for the horizontal axis.
        y: column for the vertical axis.
        group: column whose values name the groups.
        title: what the figure shows.
        x_title: name and unit of x.
        y_title: name and unit of y.
        connect: groups whose means are joined by a line, in this order.
    """
    groups = {str(name): part for name, part in frame.groupby(group, sort=False)}
    words = "; ".join(
        f"{name} at ({_told(part[x])}, {_told(part[y])})"
        for name, part in groups.items()
    )
    alt = f"{title}. {y_title} against {x_title}, means and 95 % intervals: {words}."
    figure = blank(title, alt, x_title, y_title, height=450)
    if connect:
        path = [groups[name] for name in connect]
        figure.add_scatter(
            x=[part[x].mean() for part in path],
            y=[part[y].mean() for part in path],
            mode="lines",
            line=dict(color=GREY, width=1, dash="dot"),
            name="through the means",
            showlegend=False,
            hoverinfo="skip",
        )
    for i, (name, part) in enumerate(groups.items()):
        style = look(i)
        figure.add_scatter(
            x=part[x],
            y=part[y],
            mode="markers",
            marker={**style["marker"], "size": 5, "opacity": 0.35},
            name=name + describe.SINGLE,
            showlegend=False,
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=[part[x].mean()],
            y=[part[y].mean()],
            error_x=_bar(part[x]),
            error_y=_bar(part[y]),
            mode="markers",
            marker={**style["marker"], "size": 12},
            name=name,
        )
    return figure


def _half(values: pd.Series) -> float:
    """Half of the 95 % t-interval of the mean; 0 for a single value."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1) * values.std() / n**0.5) if n > 1 else 0.0


def _bar(values: pd.Series) -> dict:
    """The 95 % t-interval as an error bar."""
    return dict(type="data", array=[_half(values)], thickness=1, width=3)


def _told(values: pd.Series) -> str:
    """The mean and its interval in words."""
    mean, half = values.mean(), _half(values)
    return short(mean) + (
        f" {describe.interval(mean - half, mean + half)}" if half else ""
    )


def wilson(
    share: np.ndarray, count: np.ndarray, z: float = 1.959964
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Wilson's intervals (1927) of shares p, each of n independent draws.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), in [0, 1];
    95 % by default.

    Raises ValueError without a draw, or for no share.
    """
    if (count < 1).any() or (share < 0).any() or (share > 1).any():
        raise ValueError(
            f"shares {share} of {count} draws have no intervals; give shares in [0, 1] "
            "of one draw or more"
        )
    middle, width = share + z**2 / (2 * count), 1 + z**2 / count
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return ((middle - half) / width).clip(0), ((middle + half) / width).clip(max=1)


def reliability(bins: Mapping[str, tuple], title: str) -> go.Figure:
    """Accuracy against confidence, bin by bin; the diagonal is perfect calibration.

    Bars are 95 % intervals of a bin's accuracy by Wilson's formula, which takes its
    samples as independent draws.

    Args:
        bins: for each name the mean confidence, the accuracy and the number of samples
            of its bins, as `metrics.reliability` gives them; empty bins are left out.
        title: what the figure shows.
    """
    alt = f"{title}. Accuracy against confidence."
    figure = blank(title, alt, "confidence (top probability)", "accuracy")
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line=dict(color=GREY, dash="dot"),
        name="perfect",
    )
    for i, (name, columns) in enumerate(bins.items()):
        rows = [(float(c), float(a), int(n)) for c, a, n in zip(*columns) if n]
        x, y, count = zip(*rows)
        over = sum(n for c, a, n in rows if c > a) / sum(count)
        right = np.array(y).clip(0, 1)  # means of 0 and 1 in float32 may lie beside
        low, high = wilson(right, np.array(count))
        alt += f" {name}: accuracy {describe.trend(x, y, low, high)}"
        alt += f"; {over:.0%} of the samples lie in bins that are too sure."
        style = look(i)
        sizes = [5 + 15 * (n / max(count)) ** 0.5 for n in count]
        style["marker"]["size"] = sizes
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines+markers",
            name=name,
            text=[f"{n} samples" for n in count],
            error_y=dict(
                type="data",
                symmetric=False,
                array=(high - right).round(4).tolist(),
                arrayminus=(right - low).round(4).tolist(),
                thickness=1,
                width=2,
            ),
            **style,
        )
    figure.update_layout(meta={"alt": alt})
    figure.update_xaxes(range=[0, 1.02])
    figure.update_yaxes(range=[0, 1.02])
    return figure


def matrix(
    values: Sequence | np.ndarray, names: Sequence[str], title: str, unit: str
) -> go.Figure:
    """A square table of numbers as colours, the numbers written in the cells.

    Args:
        values: one row a name.
        names: what rows and columns stand for.
        title: what the figure shows.
        unit: what the numbers are.
    """
    z = np.asarray(values, dtype=float)
    alt = f"{title}. {unit}: {_extremes(z, names)}."
    figure = blank(title, alt, height=420, width=480)
    figure.add_heatmap(
        z=z.round(4),
        x=list(names),
        y=list(names),
        texttemplate="%{z:.3f}",
        colorscale="Cividis",
        colorbar=dict(title=unit),
    )
    figure.update_yaxes(autorange="reversed")
    return figure


def _extremes(z: np.ndarray, names: Sequence[str]) -> str:
    """The least and the greatest number of a square table beside its diagonal."""
    beside = np.where(np.eye(len(z), dtype=bool), np.nan, z)
    if np.isnan(beside).all():
        return short(z.min())
    words = []
    for word, i in (
        ("lowest", np.nanargmin(beside)),
        ("highest", np.nanargmax(beside)),
    ):
        row, column = np.unravel_index(i, z.shape)
        words.append(f"{word} {short(z[row, column])} ({names[row]}, {names[column]})")
    return "beside the diagonal " + ", ".join(words)


def surface(
    x: Sequence,
    y: Sequence,
    z: Sequence | np.ndarray,
    title: str,
    x_title: str,
    y_title: str,
    z_title: str,
    marks: Mapping[str, tuple[float, float]] | None = None,
) -> go.Figure:
    """A function of two numbers as a map: filled contours, seen from above.

    Args:
        x: positions from left to right.
        y: positions from below.
        z: heights, one row for each y and one column for each x.
        title: what the figure shows.
        x_title: name and unit of x.
        y_title: name and unit of y.
        z_title: name and unit of the heights.
        marks: points (x, y) to be named on the map.
    """
    heights = np.asarray(z, dtype=float)
    places = {}
    for word, i in (("lowest", heights.argmin()), ("highest", heights.argmax())):
        row, column = np.unravel_index(i, heights.shape)
        at = f"({short(float(x[column]))}, {short(float(y[row]))})"
        places[word] = f"{word} {short(heights[row, column])} at {at}"
    spots = [
        f"{name} at ({short(a)}, {short(b)})" for name, (a, b) in (marks or {}).items()
    ]
    words = ", ".join([*places.values(), *spots])
    alt = f"{title}. {z_title} over {x_title} and {y_title}: {words}."
    figure = blank(title, alt, x_title, y_title, width=560, height=440)
    figure.add_contour(
        x=list(x),
        y=list(y),
        z=heights.round(4),
        colorscale="Cividis",
        colorbar=dict(title=z_title),
    )
    for name, (across, up) in (marks or {}).items():
        edge = dict(width=1.5, color="black")
        figure.add_scatter(
            x=[across],
            y=[up],
            mode="markers",
            marker=dict(color="white", symbol="circle", size=10, line=edge),
            showlegend=False,
            hoverinfo="name",
            name=name,
        )
        figure.add_annotation(
            x=across,
            y=up,
            text=name,
            showarrow=False,
            yshift=16,
            bgcolor="rgba(255,255,255,0.8)",  # to be read on light and on dark
        )
    return figure


def gallery(
    images: np.ndarray, captions: Sequence[str], title: str, columns: int = 8
) -> go.Figure:
    """Small images in a grid, each with a caption above.

    Args:
        images: uint8 (n, C, H, W), C = 1 or 3.
        captions: n short texts.
        title: what the figure shows.
        columns: images in a row.
    """
    rows = -(-len(images) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=list(captions),
        horizontal_spacing=0.01,
        vertical_spacing=0.28 / rows,
    )
    for i, image in enumerate(np.asarray(images)):
        pixels = image.transpose(1, 2, 0)
        pixels = pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        row, column = divmod(i, columns)
        figure.add_trace(
            go.Image(source=source, hoverinfo="skip"), row=row + 1, col=column + 1
        )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_annotations(font_size=10)
    figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        width=760,
        height=80 + 115 * rows,
        margin=dict(l=10, r=10, t=75, b=10),
        meta={"alt": f"{title}. {len(images)} images: {_some(captions)}."},
    )
    return figure


def _some(captions: Sequence[str], most: int = 8) -> str:
    """The first few captions; the table has them all."""
    more = len(captions) - most
    told = ", ".join(captions[:most])
    return f"{told}, and {more} more" if more > 0 else told
