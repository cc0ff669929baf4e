"""How figures look: colours, shapes and dashes, on light pages and on dark ones.

The hues are Okabe and Ito's (2008), for colour-blind readers. All seven stand out from
a white page and from a dark one, by a contrast of 3:1 or more (WCAG 2, 1.4.11). Blue,
vermilion, green and purple are theirs as they stand. Three were too light for white
paper, or black, and are darker or lighter here: orange is a brown, so that it is not
taken for vermilion, sky blue is deeper, and black is a grey. Yellow cannot be seen on
white, and is left out. Marker shapes and dashes say the same again.

Figures are made light, to be read anywhere; on a dark page `stylesheet` turns paper,
words and lines around the data.
"""

from collections.abc import Sequence

import plotly.graph_objects as go

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#935D25",
    "#4A93E8",
    "#686868",
)
SHAPES = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
GREY = "#808080"  # lines that only guide the eye

PAPER, INK, GRID = "#ffffff", "#222222", "#e5e5e5"
DARK_PAPER, DARK_INK, DARK_GRID = "#111111", "#e6e9ec", "#3a424b"
AXIS = "#808080"

_AXIS = dict(
    showgrid=True,
    gridcolor=GRID,
    linecolor=AXIS,
    showline=True,
    zeroline=False,
    ticks="outside",
    automargin=True,
)
TEMPLATE = go.layout.Template(  # plotly's own would add 7 kB to every figure
    layout=dict(
        colorway=COLOURS,
        font=dict(family="sans-serif", size=13, color=INK),
        title=dict(x=0.02, xanchor="left", font=dict(size=15)),
        plot_bgcolor=PAPER,
        paper_bgcolor=PAPER,
        margin=dict(l=60, r=20, t=60, b=50),
        xaxis=_AXIS,
        yaxis=_AXIS,
        legend=dict(bgcolor="rgba(255,255,255,0.7)"),
        hovermode="closest",
    )
)

# The words around the data; those in the cells of a heatmap suit their cells.
_WORDS = tuple(f".{layer} text" for layer in ("infolayer", "textpoint", "menulayer"))
_LAYERS = tuple(f".{a}axislayer-{side}" for a in "xy" for side in ("above", "below"))
_SIDES = tuple(f".{a}lines-{side}" for a in "xy" for side in ("above", "below"))


def look(i: int) -> dict:
    """Colour, marker shape and dash of the i-th series."""
    k = i % len(COLOURS)
    return dict(
        line=dict(color=COLOURS[k], dash=DASHES[k]),
        marker=dict(color=COLOURS[k], symbol=SHAPES[k], size=9),
    )


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` in [0, 1], as WCAG 2 defines it.

    Raises ValueError for a colour that is written otherwise.
    """
    try:
        red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    except ValueError as error:
        raise ValueError(
            f"colour {colour!r} is not as in '#0072B2'; write it in hex"
        ) from error
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
        for v in (red / 255, green / 255, blue / 255)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """(L1 + 0.05) / (L2 + 0.05) of two colours `#rrggbb`, L1 >= L2; 1 to 21."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def stylesheet(where: str, paper: str = DARK_PAPER) -> str:
    """CSS that turns plotly figures dark: all but what shows the data.

    Args:
        where: a selector of dark pages, as `body[data-jp-theme-light="false"]`, or a
            condition, as `@media (prefers-color-scheme: dark)`.
        paper: the dark page's colour, `#rrggbb`.
    """
    before = "" if where.startswith("@") else where + " "

    def rule(parts: Sequence[str], look: str) -> str:
        # Plotly writes its looks into each element, so only !important undoes them.
        names = ",".join(f"{before}.js-plotly-plot {part}" for part in parts)
        return f"{names}{{{look} !important}}"

    rules = [
        rule([".main-svg:first-of-type"], f"background:{paper}"),
        rule([".main-svg .bg"], f"fill:{paper}"),
        rule([*_WORDS, *(f"{layer} text" for layer in _LAYERS)], f"fill:{DARK_INK}"),
        rule([".gridlayer path", ".zerolinelayer path"], f"stroke:{DARK_GRID}"),
        rule([*_SIDES, *(f"{layer} path" for layer in _LAYERS)], f"stroke:{AXIS}"),
        rule([".modebar-group"], "background:transparent"),
        rule([".modebar-btn .icon path"], f"fill:{DARK_INK}"),
    ]
    css = "\n".join(rules)
    return f"{where}{{{css}}}" if where.startswith("@") else css
