"""Twins of explorers that need no kernel: the figure at each place of its controls."""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

MIME = "application/vnd.sbtutor.twin+json"
MOST = 150  # states of one twin
DIGITS = 4


def positions(control: Any) -> list[Any]:
    """All values that a control can take; a number's, from the least on."""
    if hasattr(control, "options"):
        return [pair[1] for pair in control._options_full]
    if hasattr(control, "min"):
        count = round((control.max - control.min) / control.step)
        places = [control.min + i * control.step for i in range(count + 1)]
        if hasattr(control, "base"):
            places = [control.base**place for place in places]
        return [type(control.value)(float(f"{place:.6g}")) for place in places]
    return [False, True]


def spoken(control: Any, value: Any) -> str:
    """A control's value as its readout says it."""
    if hasattr(control, "_options_full"):
        return next(name for name, v in control._options_full if v == value)
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
        `controls`: for each one its `label`, the words of its `values`, and `at`, the
        place of the current one. `figures`: a figure for each combination, the last
        control's values running fastest. Its `data` and `layout` are plotly's.
    """
    kept = chosen(controls) | {name: list(v) for name, v in (values or {}).items()}
    about = [
        {
            "label": control.description or name.replace("_", " "),
            "values": [spoken(control, value) for value in kept[name]],
            "at": kept[name].index(control.value),
            "number": not hasattr(control, "options"),
        }
        for name, control in controls.items()
    ]
    figures = [
        slim(draw(**dict(zip(kept, combination))))
        for combination in itertools.product(*kept.values())
    ]
    return {"controls": about, "figures": figures}


def slim(figure: go.Figure) -> dict[str, Any]:
    """A figure as plain JSON with four digits, for many figures on one page."""
    spec = json.loads(json.dumps(figure.to_plotly_json(), default=_plain))
    return {"data": _short(spec["data"]), "layout": _short(spec["layout"])}


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
