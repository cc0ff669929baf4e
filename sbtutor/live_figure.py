"""The live trainer's figure: curves by epoch, and the way of the trade-off point."""

import dataclasses
from collections.abc import Sequence

import plotly.graph_objects as go

from sbtutor import live
from sbtutor.describe import number
from sbtutor.live import Epoch
from sbtutor.panels import panels
from sbtutor.theme import COLOURS, DASHES, GREY

TITLES = ("training loss", "validation accuracy (thick: ensemble)", "trade-off")


@dataclasses.dataclass(frozen=True)
class Point:
    """Where an earlier trial ended."""

    name: str
    sam_rise: float
    der: float


def figure(
    name: str, history: Sequence[Epoch], epochs: int, earlier: Sequence[Point] = ()
) -> go.Figure:
    """Loss and accuracy by epoch, and the way of the trade-off point.

    Args:
        name: what is trained, and how it stands.
        history: the epochs done, of 0 or more.
        epochs: in all, for the axes.
        earlier: where earlier trials ended, in grey.
    """
    done = [epoch.number for epoch in history]
    losses = _curves(done, [e.loss for e in history], None)
    shares = [e.member_accuracy for e in history]
    accuracies = _curves(done, shares, [e.accuracy for e in history])
    traces = [(1, trace) for trace in losses] + [(2, trace) for trace in accuracies]
    traces += [(3, trace) for trace in _way(history, earlier)]
    traces += [(place, {"x": [], "y": []}) for place in (1, 2, 3)]  # axes at least
    epoch = {"title": {"text": "epoch", "standoff": 5}, "range": [0.5, epochs + 0.5]}
    rise = {"title": {"text": f"SAM rise at {live.RHO:g}", "standoff": 5}}
    der = {"title": {"text": "DER", "standoff": 2}}
    curves = {} if history else {"range": [0, 1]}  # of axes without a line
    points = {} if history or earlier else {"range": [0, 1]}
    axes = {"x1": epoch, "x2": epoch, "x3": rise | points, "y3": der | points}
    axes |= {"y1": curves, "y2": curves}
    size = {"width": 840, "height": 340, "margin": {"l": 50, "r": 20, "t": 80, "b": 50}}
    alt = words(name, history, earlier)
    return panels(TITLES, traces, axes, name, alt, showlegend=False, **size)


def words(name: str, history: Sequence[Epoch], earlier: Sequence[Point]) -> str:
    """What the figure shows."""
    said = f"{name}."
    if history:
        last = history[-1]
        said += (
            f" After {last.number} epochs: mean training loss "
            f"{number(sum(last.loss) / len(last.loss))}, validation accuracy of the "
            f"members {number(sum(last.member_accuracy) / len(last.loss))}, of the "
            f"ensemble {number(last.accuracy)}; SAM rise {number(last.sam_rise)}, DER "
            f"{number(last.der)}."
        )
    for point in earlier:
        said += (
            f" Earlier, {point.name}: SAM rise {number(point.sam_rise)}, DER "
            f"{number(point.der)}."
        )
    return said


def _curves(
    done: list[int],
    members: list[tuple[float, ...]],
    ensemble: list[float] | None,
) -> list[dict]:
    """Members thin, the ensemble thick; with one epoch there is only a mark."""
    mode = "lines+markers" if len(done) < 2 else "lines"
    rows = [
        (f"member {m + 1}", values, dict(width=1.2, color=COLOURS[m], dash=DASHES[m]))
        for m, values in enumerate(zip(*members, strict=True))
    ]
    if ensemble:
        rows.append(("ensemble", ensemble, dict(width=3.5, color=COLOURS[-1])))
    return [
        dict(x=done, y=[round(v, 4) for v in values], mode=mode, line=line, name=name)
        for name, values, line in rows
    ]


def _way(history: Sequence[Epoch], earlier: Sequence[Point]) -> list[dict]:
    """The trade-off point's trail, a large mark at its end, earlier ends in grey."""
    traces = []
    if earlier:
        traces.append(
            dict(
                x=[round(p.sam_rise, 5) for p in earlier],
                y=[round(p.der, 4) for p in earlier],
                text=[p.name.partition(",")[0] for p in earlier],
                hovertext=[p.name for p in earlier],
                mode="markers+text",
                cliponaxis=False,  # names may reach beyond the axes
                textposition="bottom center",
                textfont=dict(size=10),
                marker=dict(color=GREY, size=9, symbol="square"),
                name="earlier",
            )
        )
    if history:
        sizes = [4] * (len(history) - 1) + [15]
        traces.append(
            dict(
                x=[round(e.sam_rise, 5) for e in history],
                y=[round(e.der, 4) for e in history],
                text=[f"epoch {e.number}" for e in history],
                mode="lines+markers",
                line=dict(width=1, color=COLOURS[1]),
                marker=dict(color=COLOURS[1], size=sizes, symbol="circle"),
                name="now",
            )
        )
    return traces
