"""A figure in words and as a table, for readers who do not see it.

Everything here is made from a figure's plotly spec, so it fits each figure, however it
was drawn.
"""

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from sbtutor import traces

ROWS = 40  # of a table; figures with more are summed up,
BYTES = 1500  # or with more bytes of HTML
SINGLE = ", single"  # ends the name of a series of single runs behind their mean
SUMMED = ["series", "count", "first", "last", "min", "median", "max"]

Number = int | float | np.number
Table = list[list[str]]


def number(value: Number, digits: int = 3) -> str:
    """A number with so many digits."""
    short = f"{value + 0.0:.{digits}g}"  # + 0.0 makes -0 a 0
    return re.sub(r"e([+-])0*", r"e\1", short).replace("e+", "e")


def interval(low: Number, high: Number, digits: int = 3) -> str:
    """As in `[0.1, 0.2]`."""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def trend(
    x: Sequence | np.ndarray,
    y: Sequence | np.ndarray,
    low: Sequence | np.ndarray | None = None,
    high: Sequence | np.ndarray | None = None,
) -> str:
    """Where values start, whether they rise or fall, and where they end.

    A turn is told where it goes beyond both ends by a sixth of the whole range. Values
    that are no finite numbers are passed over.

    Args:
        x: positions, in order.
        y: values there.
        low: lower ends of their intervals, or None.
        high: upper ends, or None.
    """
    x, values = list(x), np.asarray(y, dtype=float)
    low, high = (None if v is None else np.asarray(v, float) for v in (low, high))
    kept = np.flatnonzero(np.isfinite(values)).tolist()
    if not kept:
        return "has no values"

    def say(i: int) -> str:
        known = low is not None and high is not None and np.isfinite(high[i] - low[i])
        return number(values[i]) + (f" {interval(low[i], high[i])}" if known else "")

    first, last = kept[0], kept[-1]
    top, bottom = max(kept, key=values.item), min(kept, key=values.item)
    span = values[top] - values[bottom]
    if first == last:
        return f"is {say(first)}"
    if span <= 1e-9 * abs(values[top]):
        return f"stays at {say(first)}"
    over = values[top] - max(values[first], values[last])
    under = min(values[first], values[last]) - values[bottom]
    if max(over, under) <= span / 6:
        way = "rises" if values[last] > values[first] else "falls"
        return f"{way} from {say(first)} to {say(last)}"
    if min(over, under) > span / 6:
        both = f"between {number(values[bottom])} and {number(values[top])}"
        return f"goes up and down {both}, from {say(first)} to {say(last)}"
    ways = ("rises", "falls") if over > under else ("falls", "rises")
    at = top if over > under else bottom
    turn = f"{ways[0]} from {say(first)} to {say(at)} at {_say(x[at])}"
    return f"{turn}, then {ways[1]} to {say(last)}"


def alt(spec: traces.Spec) -> str:
    """The figure's text alternative: `layout.meta.alt`, else words made of its data."""
    layout = spec.get("layout") or {}
    meta = layout.get("meta")
    if isinstance(meta, dict) and meta.get("alt"):
        return traces.plain(meta["alt"])
    title = traces.text(layout.get("title")) or "figure"
    words = [
        f"{s.name} {trend(s.x, s.y, *(s.y_bar or ()))}"
        for s in traces.series(spec)[:6]
        if s.y.dtype.kind == "f"
    ]
    return f"{title}. {'; '.join(words)}." if words else title


def table(spec: traces.Spec, size: int = BYTES) -> Table:
    """The figure's numbers; the first row names the columns.

    Series over the same x stand side by side, others one below the other. An interval
    follows its value in brackets; a small heatmap is written out; images are told by
    their captions. If that takes more than ROWS rows, or `size` bytes of HTML, single
    runs are left out; if it still does, there is one row a series: how many values, the
    first, the last, the least, the middle and the greatest.
    """
    images, series, grids = traces.images(spec), traces.series(spec), traces.grids(spec)
    if images:
        rows = [[str(i + 1), words] for i, words in enumerate(images[:ROWS])]
        return [["image", "caption"], *rows]
    if len(grids) == 1 and grids[0][3].size <= 64:
        name, x, y, z = grids[0]
        cells = [[_say(a), *map(_say, b)] for a, b in zip(y, z)]
        return [[name, *map(_say, x)], *cells]
    means = [s for s in series if not s.name.endswith(SINGLE)]
    for some in (series, means) if not grids else ():
        if some and sum(len(s.x) for s in some) <= 4 * ROWS:
            whole = _points(some, spec)
            if len(whole) - 1 <= ROWS and len(_html(whole).encode()) <= size:
                return whole
    told = [s for s in series if len(s.x) > 1 or not grids]  # not a map's marks
    rows = [_sum(s.name, s.y if s.y.dtype.kind == "f" else s.x) for s in told]
    rows += [_sum(name, z.ravel()) for name, _, _, z in grids]
    return [SUMMED, *filter(None, rows)][: ROWS + 1]


def details(spec: traces.Spec) -> str:
    """The figure in words and numbers, folded, as small HTML."""
    return (
        '<details class="sbtutor-words"><summary>In words and numbers</summary>'
        f"<p>{escape(alt(spec), quote=False)}</p>{_html(table(spec))}</details>"
    )


def _html(rows: Table) -> str:
    """A table as HTML, without the end tags that HTML does not ask for."""
    if len(rows) < 2:
        return ""
    said = "Each series, summed up" if rows[0] == SUMMED else "As drawn"
    if any(" [" in cell for row in rows[1:] for cell in row[1:]):
        said += ", intervals in brackets"
    head = "".join(f'<th scope="col">{escape(name, quote=False)}' for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell, quote=False)}" for cell in row)
        for row in rows[1:]
    )
    return (
        f"<table><caption>{said}</caption><thead><tr>{head}</thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _points(series: list[traces.Series], spec: traces.Spec) -> Table:
    """All points; series side by side where they share their x."""
    x_title, y_title = (
        traces.text(traces.axis(spec, a, {}).get("title")) or a for a in "xy"
    )
    places = [[_say(x) for x in s.x] for s in series]
    if all(p == places[0] for p in places) and not any(s.x_bar for s in series):
        head = [s.name for s in series] if len(series) > 1 else [y_title]
        columns = [[_cell(s.y, s.y_bar, i) for i in range(len(s.y))] for s in series]
        return [[x_title, *head], *map(list, zip(*places[:1], *columns))]
    rows = [
        [s.name, _cell(s.x, s.x_bar, i), _cell(s.y, s.y_bar, i)]
        for s in series
        for i in range(len(s.x))
    ]
    if all(
        name.removesuffix(SINGLE) == y for name, _, y in rows
    ):  # the axis is made of the names
        return [["series", x_title], *(row[:2] for row in rows)]
    return [["series", x_title, y_title], *rows]


def _cell(values: np.ndarray, bar: tuple | None, i: int) -> str:
    shown = _say(values[i])
    if bar is None or not bar[1][i] > bar[0][i]:
        return shown
    return f"{shown} {interval(bar[0][i], bar[1][i], 4)}"


def _sum(name: str, values: np.ndarray) -> list[str]:
    """A row of SUMMED; [] without numbers."""
    kept = values[np.isfinite(values)] if values.dtype.kind == "f" else values[:0]
    if not len(kept):
        return []
    told = (kept[0], kept[-1], kept.min(), np.median(kept), kept.max())
    return [name, str(len(kept)), *map(_say, told)]


def _say(value: Any) -> str:
    """A number with four digits, or words."""
    is_number = isinstance(value, (int, float, np.number))
    return number(value, 4) if is_number else traces.plain(value)
