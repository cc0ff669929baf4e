"""The live trainer: watch a small ensemble train, pause it, stop it, start another."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import ipywidgets
import plotly.graph_objects as go

from sbtutor import data, explore, live
from sbtutor.config import Experiment
from sbtutor.describe import number
from sbtutor.live import Epoch, Training
from sbtutor.panels import panels
from sbtutor.theme import COLOURS, DASHES, GREY

METHODS = {"deep ensemble": "sgd", "SAM": "sam", "SharpBalance": "sharpbalance"}
TITLES = ("training loss", "validation accuracy (thick: ensemble)", "trade-off")
APART = 0.4  # seconds between two drawings, at least


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


class Trainer(ipywidgets.VBox):
    """Choices and buttons above, the figure of the trial that runs below.

    Attributes:
        controls: method, rho, members, seed.
        buttons: start, pause, stop; `click()` presses one.
        training: the trial that runs or ran last; None at first.
        earlier: where the trials before it ended.
    """

    def __init__(self, experiment: Experiment) -> None:
        """Show an empty figure; nothing is trained before Start is pressed."""
        given = experiment.train
        self.experiment, self._splits, self._drawn = experiment, None, 0.0
        self.training: Training | None = None
        self.earlier: list[Point] = []
        self.controls = {
            "method": ipywidgets.Dropdown(
                options=list(METHODS.items()), value=given.method
            ),
            "rho": ipywidgets.FloatLogSlider(
                given.rho, min=-2, max=0, step=0.1, readout_format=".3g"
            ),
            "members": ipywidgets.IntSlider(given.members, min=2, max=4),
            "seed": ipywidgets.BoundedIntText(given.seed, min=0, max=10**6),
        }
        for name, control in self.controls.items():
            control.description = name
            control.style.description_width = "initial"
            control.layout.width = "300px" if name != "seed" else "160px"
        self.controls["method"].observe(self._grey, names="value")
        self.buttons = {
            name: ipywidgets.Button(description=name.capitalize(), icon=icon)
            for name, icon in (("start", "play"), ("pause", "pause"), ("stop", "stop"))
        }
        for name, press in (
            ("start", self._start),
            ("pause", self._pause),
            ("stop", self._stop),
        ):
            self.buttons[name].on_click(press)
        self.output = ipywidgets.Output()
        self._grey()
        self.show()
        first, second = list(self.controls.values())[:2], [*self.controls.values()][2:]
        rows = (first, second, self.buttons.values())
        super().__init__([*map(ipywidgets.HBox, map(list, rows)), self.output])
        self.add_class("sbtutor-explorer")

    def picture(self) -> go.Figure:
        """The figure as it stands."""
        running = self.training
        if running is None:
            name = "Press Start: a small ensemble trains while you watch"
            return figure(name, [], self.experiment.train.epochs)
        train, history = running.experiment.train, list(running.history)
        name = f"{label(train)}, seed {train.seed}: {running.status}"
        name += f", {len(history)} of {train.epochs} epochs"
        return figure(name, history, train.epochs, self.earlier)

    def show(self) -> None:
        """Draw the figure, or the error that ended the training; set the buttons."""
        status = self.training.status if self.training else "ready"
        self.buttons["pause"].disabled = status not in ("running", "paused")
        self.buttons["stop"].disabled = status not in ("running", "paused")
        going_on = status == "paused"
        self.buttons["pause"].description = "Resume" if going_on else "Pause"
        self.buttons["pause"].icon = "play" if going_on else "pause"
        if status == "failed":
            _say(self.output, self.training.error)
        else:
            explore.put(self.output, self.picture())
        self._drawn = time.monotonic()

    def _grey(self, _: object = None) -> None:
        self.controls["rho"].disabled = self.controls["method"].value == "sgd"

    def _changed(self, training: Training) -> None:
        """In the training's thread; one that has been replaced is not shown."""
        late = time.monotonic() - self._drawn > APART
        if training is self.training and (late or training.status != "running"):
            self.show()

    def _start(self, _: object) -> None:
        before = self.training
        if before is not None:
            before.stop()
            if before.history:
                last, name = before.history[-1], label(before.experiment.train)
                self.earlier.append(Point(name, last.sam_rise, last.der))
        self.training = None
        try:
            self.training = self._fresh()
            self.training.start()
            self.show()
        except ValueError as error:
            _say(self.output, str(error))

    def _fresh(self) -> Training:
        values: dict[str, Any] = {n: c.value for n, c in self.controls.items()}
        settings = dataclasses.replace(self.experiment.train, **values)
        experiment = dataclasses.replace(self.experiment, train=settings)
        if self._splits is None:
            self._splits = data.load(experiment.data)
        made = Training(experiment, self._splits)
        made.changed = lambda: self._changed(made)
        return made

    def _pause(self, _: object) -> None:
        if self.training.status == "paused":
            self.training.resume()
        else:
            self.training.pause()
        self.show()

    def _stop(self, _: object) -> None:
        self.training.stop()
        self.training.join(10)
        self.show()


def _say(output: ipywidgets.Output, error: str) -> None:
    """An error in the figure's place."""
    output.outputs = ({"output_type": "stream", "name": "stderr", "text": error},)


def label(train: Any) -> str:
    """As `SAM 0.1` or `deep ensemble`, with the number of members."""
    name = next(name for name, method in METHODS.items() if method == train.method)
    radius = "" if train.method == "sgd" else f" {train.rho:.3g}"
    return f"{name}{radius}, {train.members} members"


def trainer(experiment: Experiment) -> Trainer:
    """The live trainer: Start, Pause, Resume, Stop; several trials to compare.

    A thread trains, so other cells run meanwhile. Nothing is written to disk. Earlier
    trials stay as grey points. The figure's three parts: training loss by epoch,
    validation accuracy by epoch (members thin, the ensemble thick), and the trade-off
    point: how far the loss rises at SAM's step of length 0.1 on 200 training images,
    and DER on the validation images.

    Args:
        experiment: data, model and training; method, rho, members and seed are what
            the controls show first.
    """
    return Trainer(experiment)
