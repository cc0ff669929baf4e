"""Small plots side by side, put together at once: an explorer redraws at each move."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sbtutor.theme import TEMPLATE


def panels(
    titles: Sequence[str],
    traces: Sequence[tuple[int, dict[str, Any]]],
    axes: Mapping[str, dict[str, Any]],
    title: str,
    alt: str,
    gap: float = 0.08,
    **layout: Any,
) -> go.Figure:
    """Plots of equal width in a row.

    plotly's `make_subplots` and `add_scatter` look at the whole figure each time, so
    that a figure of a dozen lines takes them a fifth of a second.

    Args:
        titles: one a plot, above it.
        traces: each with the place of its plot, from 1 on.
        axes: plotly's settings by axis: `x1`, `y1`, `x2` and so on.
        title: of the whole.
        alt: the text alternative.
        gap: between two plots, as a share of the whole width.
        layout: more of plotly's settings.
    """
    count = len(titles)
    width = (1 - gap * (count - 1)) / count
    made: dict[str, Any] = {"annotations": []}
    for i, heading in enumerate(titles):
        left = i * (width + gap)
        number = "" if i == 0 else str(i + 1)
        across = {"domain": [left, left + width], "anchor": f"y{number}"}
        made[f"xaxis{number}"] = across | axes.get(f"x{i + 1}", {})
        made[f"yaxis{number}"] = {"anchor": f"x{number}"} | axes.get(f"y{i + 1}", {})
        at = {"x": left + width / 2, "y": 1, "xref": "paper", "yref": "paper"}
        look = {"showarrow": False, "xanchor": "center", "yanchor": "bottom"}
        made["annotations"].append(
            {"text": heading, "font": {"size": 13}, **at, **look}
        )
    placed = [
        {"type": "scatter", **trace}
        | ({} if i == 1 else {"xaxis": f"x{i}", "yaxis": f"y{i}"})
        for i, trace in traces
    ]
    about = {"template": TEMPLATE, "title": {"text": title}, "meta": {"alt": alt}}
    return go.Figure(placed, made | about | layout)
