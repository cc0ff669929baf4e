"""What a figure draws, read from its plotly spec."""

import base64
import re
from html import unescape
from typing import Any, NamedTuple

import numpy as np

Spec = dict[str, Any]


class Series(NamedTuple):
    """A trace's points, and the ends of their intervals where it has any."""

    name: str
    x: np.ndarray
    y: np.ndarray
    x_bar: tuple[np.ndarray, np.ndarray] | None = None
    y_bar: tuple[np.ndarray, np.ndarray] | None = None


def series(spec: Spec) -> list[Series]:
    """The points of all lines, dots and bars; a band is the next line's interval."""
    found, band = [], None
    for i, trace in enumerate(spec.get("data") or []):
        if trace.get("type", "scatter") not in ("scatter", "scattergl", "bar"):
            continue
        y = _array(trace.get("y"))
        x = _array(trace["x"]) if "x" in trace else np.arange(len(y), dtype=float)
        if trace.get("fill") == "toself":
            band, half = (x, y), len(x) // 2
            continue
        if trace.get("mode") == "lines" and trace.get("hoverinfo") == "skip":
            continue  # it guides the eye
        x, y = x[: len(y)], y[: len(x)]
        bars = [_bar(trace.get(f"error_{a}"), v) for a, v in (("x", x), ("y", y))]
        if band and len(band[0]) == 2 * len(x) and list(band[0][: len(x)]) == list(x):
            bars[1] = (band[1][half:][::-1], band[1][:half])
        band = None
        name = trace.get("name") or text(axis(spec, "y", trace).get("title"))
        panel = _panel(spec, trace)
        name = plain(name) or panel or f"series {i + 1}"
        name = f"{panel}: {name}" if panel not in ("", name) else name
        found.append(Series(name, x, y, *bars))
    return found


def grids(spec: Spec) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, x, y and (rows, columns) of each heatmap and contour map."""
    found = []
    for trace in spec.get("data") or []:
        if trace.get("type") not in ("heatmap", "contour", "surface"):
            continue
        z = np.array([_array(row) for row in _array(trace["z"])], dtype=float)
        unit = text((trace.get("colorbar") or {}).get("title"))
        name = _panel(spec, trace) or plain(trace.get("name") or unit or "heights")
        y, x = (
            _array(trace[a]) if trace.get(a) is not None else np.arange(n) * 1.0
            for a, n in zip("yx", z.shape)
        )
        found.append((name, x, y, z))
    return found


def images(spec: Spec) -> list[str]:
    """The captions of a figure of images."""
    data = spec.get("data") or []
    if not any(trace.get("type") == "image" for trace in data):
        return []
    notes = spec["layout"].get("annotations") or [
        {"text": words.replace("</b>", "").replace("<br>", ", ")}  # of a mosaic
        for trace in data
        if trace.get("mode") == "text"
        for words in trace["text"]
    ]
    return [text(note) for note in notes]


def _panel(spec: Spec, trace: dict) -> str:
    """The heading of a trace's panel, where each panel has one."""
    layout = spec.get("layout") or {}
    panels = [key for key in layout if re.fullmatch(r"xaxis\d*", key)]
    notes = layout.get("annotations") or []
    if len(panels) < 2 or len(notes) != len(panels):
        return ""
    return text(notes[int((trace.get("xaxis") or "x")[1:] or 1) - 1])


def axis(spec: Spec, letter: str, trace: dict) -> dict:
    """The layout of the x or y axis on which a trace is drawn."""
    place = (trace.get(f"{letter}axis") or letter)[1:]
    return (spec.get("layout") or {}).get(f"{letter}axis{place}") or {}


def _bar(bar: dict | None, values: np.ndarray) -> tuple | None:
    """Low and high ends of error bars."""
    if not bar or bar.get("array") is None:
        return None
    up = _array(bar["array"])
    down = _array(bar["arrayminus"]) if bar.get("arrayminus") is not None else up
    return values - down, values + up


def _array(values: Any) -> np.ndarray:
    """Plotly's numbers or words, base64 or plain; numbers as float64."""
    if isinstance(values, dict):
        raw = base64.b64decode(values["bdata"])
        shape = [int(n) for n in str(values.get("shape", "-1")).split(",")]
        return np.frombuffer(raw, values["dtype"]).reshape(shape).astype(float)
    listed = [] if values is None else list(values)
    try:
        return np.array([np.nan if v is None else v for v in listed], dtype=float)
    except (TypeError, ValueError):  # words, or the rows of a grid
        made = np.empty(len(listed), dtype=object)
        made[:] = listed
        return made


def text(part: Any) -> str:
    """The words of a title or note, which may hold them in `text`."""
    return plain(part.get("text") if isinstance(part, dict) else part)


def plain(words: Any) -> str:
    """Words without markup; in `a < 1 and b > 2` there is none."""
    marked = "" if words is None else str(words)
    return unescape(re.sub(r"</?[A-Za-z][^<>]*>", " ", marked)).strip()
