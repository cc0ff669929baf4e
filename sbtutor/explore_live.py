"""The live trainer: watch a small ensemble train, pause it, stop it, start another."""

import dataclasses
import threading
import time
from typing import Any

import ipywidgets
import plotly.graph_objects as go

from sbtutor import data, explore
from sbtutor.config import Experiment
from sbtutor.live import Training
from sbtutor.live_figure import Point, figure

METHODS = {"deep ensemble": "sgd", "SAM": "sam", "SharpBalance": "sharpbalance"}
APART = 0.4  # seconds between two drawings, at least


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
        self._one_at_a_time = threading.Lock()
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
        with self._one_at_a_time:  # else an older figure can come last, and stay
            self._draw(self.training)
            self._drawn = time.monotonic()

    def _draw(self, training: Training | None) -> None:
        status = training.status if training else "ready"
        self.buttons["pause"].disabled = status not in ("running", "paused")
        self.buttons["stop"].disabled = status not in ("running", "paused")
        going_on = status == "paused"
        self.buttons["pause"].description = "Resume" if going_on else "Pause"
        self.buttons["pause"].icon = "play" if going_on else "pause"
        if status == "failed":
            _say(self.output, training.error)
        else:
            explore.put(self.output, self.picture())

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
