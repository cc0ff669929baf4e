"""The member explorer: test images by how sharp they are and how disputed."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sbtutor import album, data, theme, tradeoff
from sbtutor.close_up import CloseUps
from sbtutor.explore import Explorer, explore
from sbtutor.sharp_images import (
    MEASURES,
    SORTS,
    WHERE,
    Scores,
    order,
    rank_correlation,
    scores,
    window,
)

EVERY = "all"  # classes
SCATTER, BETWEEN, MARGIN = 230, 60, 80  # heights in pixels


def members_figure(
    given: Scores,
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    by: str = "sharpness",
    measure: str = "js",
    where: str = "top",
    of_class: str = EVERY,
    count: int = 12,
    method: str = "",
) -> go.Figure:
    """All images by sharpness and disagreement; below, some of them as they are.

    Args:
        given: scores of N images.
        images: uint8 (N, C, H, W).
        labels: class index of each image, (N,).
        classes: the names of the classes.
        by: what they are sorted by, as in `order`.
        measure: of disagreement, "js" or "votes".
        where: which are shown, "top", "middle" or "bottom" of that order.
        of_class: only images of this true class; "all" for every class.
        count: how many are shown.
        method: whose members they are, for the title.

    Raises:
        ValueError: unknown class, or as `order` and `window`.
    """
    if of_class not in (EVERY, *classes):
        raise ValueError(
            f"unknown class {of_class!r}: choose one of {EVERY}, {', '.join(classes)}"
        )
    kept = np.arange(len(labels))
    if of_class != EVERY:
        kept = kept[labels == classes.index(of_class)]
    shown = window(order(given, by, measure, kept), where, count)
    disputed = getattr(given, measure)
    rank, low, high = rank_correlation(given.sharp[kept], disputed[kept])
    captions = [album.caption(int(labels[n]), given.counts[n], classes) for n in shown]
    tiles, hidden = album.tiles(images[shown], captions, captions, axis="2")
    title = f"{where} by {SORTS[by]}" + (f": {method}" if method else "")
    what = f"{len(kept)} images" + ("" if of_class == EVERY else f" of {of_class}")
    correlation = f"rank correlation {rank:.2f} [{low:.2f}, {high:.2f}]"
    alt = (
        f"{title}. {what}, {MEASURES[measure]} against log10 Fisher trace: "
        f"{correlation}. Shown, true class and votes: "
        f"{'; '.join(map(album.spoken, captions))}."
    )
    tall = album.height(len(shown))
    inner = tall + SCATTER + BETWEEN
    hidden["xaxis2"] |= dict(anchor="y2", domain=[0, 1])
    hidden["yaxis2"] |= dict(anchor="x2", domain=[0, tall / inner])
    return album.figure(
        [*_scatter(given.sharp, disputed, kept, shown), *tiles],
        f"{title}<br><sup>{what}, {correlation}</sup>",
        alt,
        "mean log10 Fisher trace (sharper to the right)",
        MEASURES[measure],
        width=760,
        height=inner + MARGIN,
        margin=dict(l=60, r=20, t=MARGIN - 10, b=10),
        yaxis=dict(domain=[1 - SCATTER / inner, 1]),
        legend=dict(orientation="h", x=1, xanchor="right", y=1, yanchor="bottom"),
        **hidden,
    )


def _scatter(
    sharp: np.ndarray, disputed: np.ndarray, kept: np.ndarray, shown: np.ndarray
) -> list[dict]:
    """All kept images as small points, the shown ones ringed."""
    ring = dict(symbol="circle-open", size=11, color=theme.COLOURS[1])
    point = dict(size=5, color=theme.COLOURS[0], opacity=0.5)
    shared = dict(type="scatter", mode="markers", hoverinfo="x+y")
    return [
        shared
        | dict(x=sharp[at].round(3).tolist(), y=disputed[at].round(4).tolist())
        | dict(name=name, marker=marker)
        for name, at, marker in (
            ("images", kept, point),
            ("shown below", shown, ring | dict(line=dict(width=2))),
        )
    ]


def members(
    runs: pd.DataFrame,
    close_ups: CloseUps,
    images: data.Split,
    twin: Mapping[str, Sequence] | None = None,
) -> Explorer:
    """Which test images are sharp, on which do members disagree, and are they the same?

    Args:
        runs: the table beside the close-ups, with columns `number` and `method`.
        close_ups: of its runs.
        images: the test images in which the close-ups' places are counted.
        twin: as in `explore`; by default the first two methods, in every order;
            what is given here replaces that.

    Raises:
        ValueError: as `tradeoff.describe`; a table without `number`.
    """
    if "number" not in runs:
        raise ValueError(
            "the table has no column `number`, by which close-ups are found; give the "
            "table that lies beside them"
        )
    about = tradeoff.describe(runs)
    numbers = {
        name: sorted(set(part)) for name, part in about.groupby("name")["number"]
    }
    names = list(dict.fromkeys(about["name"]))
    pixels, labels = images.images[close_ups.places].numpy(), close_ups.labels.numpy()

    @functools.cache
    def of(method: str) -> Scores:
        return scores(close_ups, numbers[method])

    def draw(method: str, **choices: Any) -> go.Figure:
        given = of(method)
        return members_figure(
            given, pixels, labels, images.classes, method=method, **choices
        )

    controls = _controls(names, images.classes)
    few = dict(measure=["js"], of_class=[EVERY], count=[12], method=names[:2])
    box = explore(draw, twin=few | dict(twin or {}), **controls)
    side_by_side = ipywidgets.HBox(list(controls.values()))
    side_by_side.layout.flex_flow = "row wrap"
    box.children = (side_by_side, *box.children[len(controls) :])
    return box


def _controls(
    names: Sequence[str], classes: Sequence[str]
) -> dict[str, ipywidgets.Widget]:
    """A control for each choice of `members_figure`."""
    return dict(
        by=ipywidgets.Dropdown(
            options=[(words, by) for by, words in SORTS.items()],
            description="sort by",
        ),
        measure=ipywidgets.Dropdown(
            options=[(words, m) for m, words in MEASURES.items()],
            description="disagreement",
        ),
        where=ipywidgets.Dropdown(options=WHERE, description="show the"),
        of_class=ipywidgets.Dropdown(
            options=[EVERY, *classes], description="true class"
        ),
        count=ipywidgets.IntSlider(
            12, 6, 30, 6, description="images", continuous_update=False
        ),
        method=ipywidgets.Dropdown(options=names),
    )
