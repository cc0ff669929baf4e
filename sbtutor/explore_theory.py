"""The theory explorer: the linear teacher's closed forms, live."""

import math
from collections.abc import Sequence
from functools import lru_cache

import ipywidgets
import plotly.graph_objects as go

from sbtutor import theory as linear
from sbtutor.describe import number
from sbtutor.explore import Explorer, explore
from sbtutor.panels import panels
from sbtutor.theme import COLOURS, GREY

# The authors' setting, of which the controls change the rest.
SIGMA2, W_NORM, WEIGHTS = 0.1, 15**0.5, 150
RADII = tuple(i / 50 for i in range(26))
STYLES = {
    "SAM": dict(color=COLOURS[0], dash="solid", width=2),
    "SAM, lower bound": dict(color=COLOURS[0], dash="dot", width=1.5),
    "SharpBalance": dict(color=COLOURS[1], dash="dash", width=2),
    "SharpBalance, published Q": dict(color=COLOURS[2], dash="dashdot", width=1.5),
}
SYMBOLS = {"SAM": "star", "SharpBalance": "star-diamond"}
PLOTS = ("variance", "sharpness, between its bounds", "trade-off")
CURVES = (  # plot, line, what is across (None: rho), what is up
    (1, "SAM", None, "sam_variance"),
    (1, "SharpBalance", None, "variance"),
    (2, "SAM", None, "sam_upper"),
    (2, "SAM, lower bound", None, "sam_lower"),
    (2, "SharpBalance", None, "upper"),
    (2, "SharpBalance, published Q", None, "upper_code"),
    (3, "SAM", "sam_upper", "sam_variance"),
    (3, "SharpBalance", "upper", "variance"),
)
LOG = {"type": "log", "tickformat": "~g", "nticks": 6, "tickfont": {"size": 11}}
AXES = {
    "x1": {"title": {"text": "rho", "standoff": 5}},
    "x2": {"title": {"text": "rho", "standoff": 5}},
    "x3": LOG | {"title": {"text": "sharpness (upper bound)", "standoff": 5}},
    "y1": LOG,
    "y2": LOG,
    "y3": LOG | {"title": {"text": "variance", "standoff": 2}},
}


@lru_cache(8192)
def closed_forms(
    k: int, ratio: float, eta: float, rho: float, rho0: float, blocks: int
) -> dict[str, float]:
    """Variance and bounds of the sharpness at one setting; see `theory`.

    Returns:
        `sam_variance`, `sam_lower` (the tight one) and `sam_upper`; `variance`, `upper`
        and `upper_code` (by the published Q) of SharpBalance's stand-in.
    """
    model = (k, ratio, eta, rho)
    lower, upper = linear.sam_sharpness_bounds(*model, rho0, W_NORM, "tight", WEIGHTS)
    exact, code = (
        linear.sharpbalance_sharpness_bound(*model, rho0, W_NORM, blocks, form)
        for form in ("exact", "code")
    )
    return {
        "sam_variance": linear.sam_variance(*model, SIGMA2),
        "sam_lower": lower,
        "sam_upper": upper,
        "variance": linear.sharpbalance_variance(
            *model, SIGMA2, blocks, WEIGHTS, W_NORM
        ),
        "upper": exact,
        "upper_code": code,
    }


def overshoot_rho(ratio: float, eta: float) -> float:
    """The rho from which on an error grows along the sharpest direction; 0: any rho.

    |1 - eta l - eta rho l^2| > 1 at l = (sqrt(ratio) + 1)^2, the largest eigenvalue.
    """
    top = (math.sqrt(ratio) + 1) ** 2
    return max(0.0, (2 - eta * top) / (eta * top**2))


def figure(
    eta: float, rho: float, k: int, ratio: float, blocks: int, rho0: float
) -> go.Figure:
    """Variance and bounds of the sharpness along rho, and one against the other.

    Args:
        eta: step size.
        rho: radius of SAM, marked by stars.
        k: steps.
        ratio: samples per weight, n / d.
        blocks: S of SharpBalance's stand-in; 1 is SAM.
        rho0: radius in which sharpness is probed.
    """
    here = closed_forms(k, ratio, eta, rho, rho0, blocks)
    along = [closed_forms(k, ratio, eta, r, rho0, blocks) for r in RADII]
    curves = {name: [row[name] for row in along] for name in here}
    traces = []
    for place, name, x, y in CURVES:
        across, at = (curves[x], here[x]) if x else (RADII, rho)
        told = (place == 1) == (name in SYMBOLS)  # once in the legend
        traces.append((place, _curve(name, across, curves[y], told and place < 3)))
        if name in SYMBOLS:
            traces.append((place, _star(name, at, here[y])))
    edge = overshoot_rho(ratio, eta)
    title = (
        f"rho {rho:.2f}: variance of SAM {number(here['sam_variance'])}, sharpness "
        f"{number(here['sam_lower'])} to {number(here['sam_upper'])}; it diverges "
        f"from rho {edge:.2f} on"
    )
    least = RADII[curves["sam_variance"].index(min(curves["sam_variance"]))]
    alt = (
        f"{title}. eta {eta:g}, k {k}, n/d {ratio:g}, rho0 {rho0:g}. SAM's variance is "
        f"lowest near rho {least:g}. SharpBalance's model with {blocks} blocks has "
        f"variance {number(here['variance'])}, sharpness at most "
        f"{number(here['upper'])} ({number(here['upper_code'])} by the published Q)."
    )
    legend = {"orientation": "h", "y": -0.25, "x": 0.5, "xanchor": "center"}
    size = {"width": 850, "height": 400, "margin": {"l": 55, "r": 20, "t": 80, "b": 90}}
    lines = _edge(edge) if edge <= RADII[-1] else []
    return panels(PLOTS, traces, AXES, title, alt, legend=legend, shapes=lines, **size)


def _curve(name: str, x: Sequence, y: Sequence, told: bool) -> dict:
    return {
        "x": list(x),
        "y": [value if value > 0 else None for value in y],  # the axis is logarithmic
        "mode": "lines",
        "line": STYLES[name],
        "name": name,
        "legendgroup": name,
        "showlegend": told,
    }


def _star(name: str, x: float, y: float) -> dict:
    mark = {"symbol": SYMBOLS[name], "size": 13, "color": STYLES[name]["color"]}
    named = {"name": f"{name}, your rho", "showlegend": False}
    return {"x": [x], "y": [y], "mode": "markers", "marker": mark, **named}


def _edge(edge: float) -> list[dict]:
    """A dotted line where SAM begins to diverge, in the two plots along rho."""
    line = {"color": GREY, "width": 1, "dash": "dot"}
    across = {"type": "line", "x0": edge, "x1": edge, "y0": 0, "y1": 1, "line": line}
    return [
        across | {"xref": x, "yref": f"{y} domain"}
        for x, y in (("x", "y"), ("x2", "y2"))
    ]


def theory() -> Explorer:
    """The theory explorer: six sliders, and what Theorems 1 and 2 say of them.

    Lu et al. 2024's linear model with sigma^2 = 0.1, d = 150 and ||w*||^2 = 15. Left
    and middle: variance, and bounds of the sharpness, of SAM and of SharpBalance's
    stand-in along rho. Right: one against the other. Stars mark the current rho; from
    the dotted line on SAM's error grows along the sharpest direction.
    """
    controls = {
        "rho": ipywidgets.FloatSlider(0.1, min=0, max=0.5, step=0.01),
        "eta": ipywidgets.FloatSlider(
            0.01, min=0.001, max=0.02, step=0.001, readout_format=".3f"
        ),
        "k": ipywidgets.IntSlider(3, min=1, max=8, description="k, steps"),
        "ratio": ipywidgets.FloatSlider(20.0, min=2, max=40, description="n / d"),
        "blocks": ipywidgets.IntSlider(10, min=1, max=20, description="S, blocks"),
        "rho0": ipywidgets.FloatLogSlider(
            0.01, min=-3, max=0, step=0.25, description="rho0, probing radius"
        ),
    }
    twin = {
        "rho": [0.0, 0.05, 0.1, 0.15, 0.19, 0.25, 0.3, 0.5],
        "eta": [0.005, 0.01, 0.02],
        "k": [1, 3, 5],
        **{name: [controls[name].value] for name in ("ratio", "blocks", "rho0")},
    }
    return explore(figure, twin=twin, **controls)
