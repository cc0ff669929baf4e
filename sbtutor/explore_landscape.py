"""The landscape explorer: planes through trained networks, and paths between them."""

import math
from dataclasses import dataclass
from pathlib import Path

import ipywidgets
import numpy as np
import plotly.graph_objects as go

from sbtutor import files, results
from sbtutor.describe import number
from sbtutor.explore import Explorer, explore
from sbtutor.panels import panels
from sbtutor.theme import COLOURS, DASHES, GREY, SHAPES

QUANTITIES = ("loss", "accuracy", "disagreement")
UNITS = {"loss": "test loss (nats)", "accuracy": "test accuracy"}
UNITS["disagreement"] = "disagreement (share of images)"
EDGE = {"width": 1.5, "color": "black"}  # white marks are seen on light and on dark


@dataclass(frozen=True)
class Slice:
    """A plane and a path in it, as notebooks/results/planes.py measured them.

    Attributes:
        networks: what kind of networks the plane goes through.
        path: how its ends are joined.
        classes: of the images.
        values: by quantity, (Y, X) on the plane's grid, and as `path_loss`,
            `path_accuracy` (T,) and `path_disagreement` (T, 2), with each end, along
            the path; `x` (X,), `y` (Y,), `way` (T, 2) and `marks` (3, 2) are places.
    """

    networks: str
    path: str
    classes: int
    values: dict[str, np.ndarray]

    @property
    def times(self) -> list[float]:
        """t of each point of the path, from 0 at network 1 to 1 at network 2."""
        steps = len(self.values["way"]) - 1
        return [round(i / steps, 4) for i in range(steps + 1)]

    def shades(self, quantity: str) -> tuple[float, float]:
        """The range of the colours: what is worse than guessing looks all the same."""
        z, guess = self.values[quantity], 1 / self.classes
        if quantity == "loss":
            return float(z.min()), math.log(self.classes)
        return (guess, float(z.max())) if quantity == "accuracy" else (0.0, 1 - guess)


def load(name: Path | str = "results/planes") -> dict[tuple[str, str], Slice]:
    """The committed slices, by networks and path; prints what they are.

    Raises:
        ValueError: there are none, or the file is broken.
    """
    table = results.committed(name)
    saved = files.load_arrays(Path(f"{name}.npz"))
    arrays = {n: values.astype(float) for n, values in saved.items()}
    kinds, ways = (list(table[column].unique()) for column in ("networks", "path"))
    chance = table.groupby("networks")["classes"].first()
    return {
        (kind, way): Slice(
            kind, way, int(chance[kind]), {n: v[i, j] for n, v in arrays.items()}
        )
        for i, kind in enumerate(kinds)
        for j, way in enumerate(ways)
    }


def figure(
    shown: Slice, quantity: str, t: float, other: Slice | None = None
) -> go.Figure:
    """The plane as a map with the path on it, and the profile along the path.

    Args:
        shown: a plane and its path.
        quantity: one of QUANTITIES; on the plane, disagreement is that with network 1.
        t: which point of the path is marked; the nearest is.
        other: the other path between the same networks, drawn in grey.
    """
    at = min(range(len(shown.times)), key=lambda i: abs(shown.times[i] - t))
    here = {n: shown.values[f"path_{n}"][at] for n in QUANTITIES}
    both = " and ".join(number(float(v)) for v in here["disagreement"])
    title = (
        f"t = {shown.times[at]:.2f}: loss {number(float(here['loss']))}, accuracy "
        f"{number(float(here['accuracy']))}, disagreement {both}"
    )
    words = ", ".join(
        f"{n} {number(float(v.min()))} to {number(float(v.max()))}"
        for n in QUANTITIES
        for v in [shown.values[f"path_{n}"]]
    )
    z = shown.values[quantity]
    alt = (
        f"{title} with its ends. {shown.path.capitalize()} between two networks, "
        f"{shown.networks}; along it {words}. On the plane, {quantity} is between "
        f"{number(float(z.min()))} and {number(float(z.max()))}. One run."
    )
    traces = [(1, trace) for trace in _map(shown, quantity, at)]
    if other is not None and quantity != "disagreement":
        traces.append((2, _other(other, quantity)))
    traces += [(2, trace) for trace in _profile(shown, quantity, at)]
    across = {"title": {"text": "distance in weights", "standoff": 5}}
    axes = {
        "x1": across | {"constrain": "domain", "showgrid": False},
        "y1": {"showgrid": False, "scaleanchor": "x", "constrain": "domain"},
        "x2": {"title": {"text": "t", "standoff": 5}, "range": [-0.03, 1.03]},
        "y2": {"title": {"text": UNITS[quantity], "standoff": 5}},
    }
    headings = (f"{quantity} on the plane", f"{quantity} along the path")
    size = {"width": 830, "height": 420, "margin": {"l": 50, "r": 20, "t": 80, "b": 80}}
    legend = {"orientation": "h", "x": 1, "y": -0.2, "xanchor": "right"}
    return panels(headings, traces, axes, title, alt, 0.16, legend=legend, **size)


def _map(shown: Slice, quantity: str, at: int) -> list[dict]:
    """The plane's contours, the path, the networks and the marked point."""
    values, (low, high) = shown.values, shown.shades(quantity)
    contours = {
        "start": low,
        "end": high,
        "size": (high - low) / 12,
        "showlines": False,
    }
    plane = {
        "type": "contour",
        "x": _plain(values["x"]),
        "y": _plain(values["y"]),
        "z": [_plain(row) for row in values[quantity].clip(low, high)],
        "colorscale": "Cividis",
        "reversescale": quantity == "accuracy",
        "contours": contours,
        "colorbar": {"x": 0.43, "thickness": 10, "len": 0.95},
        "hovertemplate": "%{z:.3f}<extra></extra>",
    }
    x, y = values["way"].T
    straight = {
        "x": [float(x[0]), float(x[-1])],
        "y": [float(y[0]), float(y[-1])],
        "mode": "lines",
        "line": {"color": "white", "dash": "dot", "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    way = {
        "x": _plain(x),
        "y": _plain(y),
        "customdata": shown.times,
        "mode": "lines+markers",
        "line": {"color": "white", "width": 2},
        "marker": {"color": "white", "size": 5},
        "hovertemplate": "t = %{customdata:.2f}<extra></extra>",
        "name": shown.path,
        "showlegend": False,
    }
    count = 3 if shown.path == "straight line" else 2
    across, up = values["marks"][:count].T
    ends = {
        "x": _plain(across),
        "y": _plain(up),
        "text": [f"<b>{i + 1}</b>" for i in range(count)],
        "mode": "markers+text",
        "textfont": {"color": "white", "size": 11},  # dark pages make words light, too
        "marker": {
            "color": "black",
            "size": 18,
            "line": {"color": "white", "width": 2},
        },
        "name": "networks",
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [plane, straight, way, ends, _mark(x[at], y[at])]


def _profile(shown: Slice, quantity: str, at: int) -> list[dict]:
    """The quantity along the path, and the same point of it."""
    values = np.atleast_2d(shown.values[f"path_{quantity}"].T)
    with_ends = [f"with network {i + 1}" for i in range(len(values))]
    names = with_ends if len(values) > 1 else [shown.path]
    lines = [
        {
            "x": shown.times,
            "y": _plain(row),
            "customdata": shown.times,
            "mode": "lines+markers",
            "line": {"color": COLOURS[i], "dash": DASHES[i]},
            "marker": {"color": COLOURS[i], "symbol": SHAPES[i], "size": 6},
            "name": name,
        }
        for i, (name, row) in enumerate(zip(names, values, strict=True))
    ]
    marks = [_mark(shown.times[at], row[at]) for row in values]
    down = {"x": [shown.times[at]] * 2, "y": [float(values.min()), float(values.max())]}
    guide = {"mode": "lines", "line": {"color": GREY, "dash": "dot", "width": 1}}
    return [*lines, down | guide | {"showlegend": False, "hoverinfo": "skip"}, *marks]


def _other(other: Slice, quantity: str) -> dict:
    line = {"color": GREY, "dash": "dot", "width": 2}
    y = _plain(other.values[f"path_{quantity}"])
    return {"x": other.times, "y": y, "mode": "lines", "line": line, "name": other.path}


def _mark(x: float, y: float) -> dict:
    mark = {"symbol": "star", "size": 16, "color": COLOURS[1], "line": EDGE}
    look = {"mode": "markers", "marker": mark, "name": "you", "showlegend": False}
    return {"x": [float(x)], "y": [float(y)], "hoverinfo": "skip", **look}


def _plain(values: np.ndarray) -> list[float]:
    return [round(float(v), 3) for v in values]


def landscape(name: Path | str = "results/planes") -> Explorer:
    """The landscape explorer: choose networks, quantity and path; walk along it.

    Of the straight line the plane goes through all three networks; of the fitted curve
    through its two ends and its bend, so that the whole curve lies in it. A click on a
    point of the path, or of its profile, goes there. Each kind of networks is a single
    run: what is seen is what one plane looks like, not a mean.

    Args:
        name: of the committed slices, seen from the folder notebooks/.

    Raises:
        ValueError: as `load`.
    """
    slices = load(name)
    kinds, ways = (list(dict.fromkeys(part)) for part in zip(*slices, strict=True))
    t = ipywidgets.FloatSlider(0.5, min=0, max=1, step=0.05, description="t")

    def draw(networks: str, path: str, quantity: str, t: float) -> go.Figure:
        (other,) = (way for way in ways if way != path)
        return figure(slices[networks, path], quantity, t, slices[networks, other])

    def go_to(place: float) -> None:
        t.value = place

    return explore(
        draw,
        on_click=go_to,
        twin={"t": [0.0, 0.25, 0.5, 0.75, 1.0], "quantity": ["loss", "disagreement"]},
        networks=ipywidgets.Dropdown(options=kinds),
        path=ipywidgets.Dropdown(options=ways),
        quantity=ipywidgets.Dropdown(options=QUANTITIES),
        t=t,
    )
