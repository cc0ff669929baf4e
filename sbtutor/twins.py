"""Twins of explorers that need no kernel: the figure at each place of its controls.

A twin is long, as its figures are alike. `pack` keeps what they share once.
"""

import base64
import gzip
import itertools
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from sbtutor import files

MIME = "application/vnd.sbtutor.twin+json"
MOST = 150  # states of one twin
DIGITS = 4
KILOBYTES = 600  # of one cell's twins, in the book


def positions(control: Any) -> list[Any]:
    """All values that a control can take, and its own; numbers from the least on."""
    if hasattr(control, "options"):
        return [pair[1] for pair in control._options_full]
    if hasattr(control, "min"):
        count = round((control.max - control.min) / control.step)
        places = [round(control.min + i * control.step, 9) for i in range(count + 1)]
        if hasattr(control, "base"):
            places = [control.base**place for place in places]
        found = [type(control.value)(float(f"{place:.6g}")) for place in places]
        # A value that was given need not lie on the grid of the steps.
        others = [v for v in found if not math.isclose(v, control.value)]
        return sorted([*others, control.value])
    return [False, True]


def spoken(control: Any, value: Any) -> str:
    """A control's value as its readout says it."""
    if hasattr(control, "_options_full"):
        return next(name for name, v in control._options_full if v == value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def chosen(controls: Mapping[str, Any], most: int = MOST) -> dict[str, list[Any]]:
    """The values of each control in a twin: as many as make at most `most` states.

    The longest lists lose every other value first, but never the current one; then
    the last controls stay where they are.
    """
    kept = {name: positions(control) for name, control in controls.items()}

    def states() -> int:
        return math.prod(map(len, kept.values()))

    while states() > most and max(map(len, kept.values())) > 3:
        name = max(kept, key=lambda name: len(kept[name]))
        at = kept[name].index(controls[name].value)
        kept[name] = kept[name][at % 2 :: 2]
    for name in reversed(kept):
        if states() > most:
            kept[name] = [controls[name].value]
    return kept


def states(
    draw: Callable[..., go.Figure],
    controls: Mapping[str, Any],
    values: Mapping[str, Sequence] | None = None,
) -> dict[str, Any]:
    """A twin as JSON holds it.

    Args:
        draw: the explorer's function.
        controls: its controls.
        values: for some controls, the values that the twin has; the others are chosen.

    Returns:
        `controls`: for each one its `label`, the words of its `values`, `at`, the
        place of the current one, and whether it is a `number`, so that a slider suits
        it. `figures`: a figure for each combination, the last control's values running
        fastest. Its `data` and `layout` are plotly's.

    Raises:
        ValueError: `values` lack where a control is.
    """
    kept = chosen(controls) | {name: list(v) for name, v in (values or {}).items()}
    for name, control in controls.items():
        if control.value not in kept[name]:
            raise ValueError(
                f"a twin starts where its explorer does, but {name!r} is at "
                f"{control.value!r} and the twin has {kept[name]}: add that value"
            )
    about = [
        {
            "label": control.description or name.replace("_", " "),
            "values": [spoken(control, value) for value in kept[name]],
            "at": kept[name].index(control.value),
            "number": hasattr(control, "min") or "Slider" in type(control).__name__,
        }
        for name, control in controls.items()
    ]
    figures = [
        slim(draw(**dict(zip(kept, combination))))
        for combination in itertools.product(*kept.values())
    ]
    return {"controls": about, "figures": figures}


def current(twin: Mapping[str, Any]) -> int:
    """The place among a twin's figures of the one where all its controls are."""
    at = 0
    for control in twin["controls"]:
        at = at * len(control["values"]) + control["at"]
    return at


def slim(figure: go.Figure) -> dict[str, Any]:
    """A figure as plain JSON with four digits, for many figures on one page."""
    spec = json.loads(json.dumps(figure.to_plotly_json(), default=_plain))
    return {"data": _short(spec["data"]), "layout": _short(spec["layout"])}


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _short(value: Any) -> Any:
    if isinstance(value, dict) and "bdata" in value:  # plotly's typed arrays
        flat = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
        shape = [int(n) for n in str(value.get("shape", -1)).split(",")]
        return _short(flat.reshape(shape).tolist())
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def pack(twin: Mapping[str, Any], *extra: str) -> dict[str, Any]:
    """A twin whose figures share all their equal parts.

    Returns:
        `controls` as they were; `pool`, a list of parts; and for `figures`, and for
        each of the keys `extra`, lists of places in the pool. A part is
        `{"is": value}`, `{"list": places}` or `{"has": {key: place}}`.
    """
    pool: dict[str, int] = {}  # each part as JSON, which can be looked up

    def place(value: Any) -> int:
        if isinstance(value, dict):
            part = {"has": {key: place(item) for key, item in value.items()}}
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            part = {"list": [place(item) for item in value]}
        else:
            part = {"is": value}
        return pool.setdefault(json.dumps(part), len(pool))

    places = {key: [place(v) for v in twin[key]] for key in ("figures", *extra)}
    parts = [json.loads(part) for part in pool]
    return {"controls": twin["controls"], "pool": parts, **places}


def unpack(twin: Mapping[str, Any]) -> dict[str, Any]:
    """What `pack` was given."""

    def at(place: int) -> Any:
        part = twin["pool"][place]
        if "has" in part:
            return {key: at(item) for key, item in part["has"].items()}
        return [at(item) for item in part["list"]] if "list" in part else part["is"]

    lists = {key: twin[key] for key in twin if key not in ("controls", "pool")}
    whole = {key: [at(place) for place in places] for key, places in lists.items()}
    return {"controls": twin["controls"], **whole}


def side_file(lesson: Path) -> Path:
    """Where the twins of a committed notebook are kept, which would not fit into it."""
    return lesson.parent / "twins" / f"{lesson.stem}.json.gz"


def save(found: Mapping[str, Sequence], lesson: Path) -> None:
    """Write the twins of a notebook's cells beside it; say which are long for a page.

    The same twins give the same bytes.
    """
    path = side_file(lesson)
    if not found:
        path.unlink(missing_ok=True)
        return
    for cell, made in found.items():
        kilobytes = len(json.dumps(made)) / 1000
        if kilobytes > KILOBYTES:
            print(
                f"{cell}: its twin takes {kilobytes:.0f} kB of the book's page; draw "
                f"less, or name fewer values, to stay below {KILOBYTES} kB"
            )
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(found, separators=(",", ":"), sort_keys=True)
    files.write_bytes(path, gzip.compress(text.encode(), mtime=0))


def load(lesson: Path) -> dict[str, list]:
    """The twins of a notebook's cells, by the cells' ids; {} if it has none.

    Raises:
        BrokenFileError: the file was cut short or altered.
    """
    path = side_file(lesson)
    if not path.exists():
        return {}
    try:
        return json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise files.BrokenFileError(
            f"{path} was cut short or altered ({error}); get it again, as with "
            f"`git checkout -- {path}`"
        ) from None
