"""The trade-off explorer: all runs of a table, and a close-up of the one chosen."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sbtutor import album, close_up, data, plots
from sbtutor import tradeoff as trade
from sbtutor.close_up import CloseUps
from sbtutor.explore import Explorer, explore, put
from sbtutor.tradeoff import DIVERSITY, EVERY, QUALITY, SHARPNESS
from sbtutor.tradeoff_figure import tradeoff_figure

DISPUTED = 12  # images of a close-up
NOBODY = -1  # the number of no run
FILTERS = ("members", "width")  # columns that get a slider where they differ
TOLD = ("accuracy", "nll", "ece", "der", "eir", "member_accuracy", "member_nll")


def tradeoff(
    runs: pd.DataFrame,
    close_ups: CloseUps | None = None,
    images: data.Split | None = None,
    twin: Mapping[str, Sequence] | None = None,
) -> Explorer:
    """Any measure of sharpness against any of diversity, for all runs of a table.

    A click on a point, or the choice of a run, shows a close-up of that run below: its
    members, which of them disagree, how calibrated they are, and the images on which
    they disagree. Everything is read from the table and the close-ups.

    Args:
        runs: one row a run, as `results.table` or `results.committed` give them. The
            columns of sharpness, diversity and accuracy that it has can be chosen;
            `rho`, `sam_fraction`, `members` and `width` get sliders if they differ.
        close_ups: of the same runs, by the column `number`; None if none were kept.
        images: the test images in which the close-ups' places are counted.
        twin: as in `explore`; by default a few axes and every rho; what is given here
            replaces that.

    Raises:
        ValueError: as `tradeoff.describe`; the table has no measure of sharpness, of
            diversity, or no accuracy; close-ups without the column `number`.
    """
    about = trade.describe(runs)
    options = _options(runs, close_ups)
    controls = _controls(runs, about, options)
    below = _Below(runs, about, close_ups, images)

    def draw(**values: Any) -> go.Figure:
        return tradeoff_figure(runs, **values)

    def choose(point: int) -> None:
        controls["run"].value = point

    def follow(_: object = None) -> None:
        equal = {name: controls[name].value for name in FILTERS if name in controls}
        below.show(controls["run"].value, equal)

    for name in ("run", *FILTERS):
        if name in controls:
            controls[name].observe(follow, names="value")
    follow()
    twin = _twin(controls) | dict(twin or {})
    box = explore(draw, choose, twin, below.widgets, **controls)
    side_by_side = ipywidgets.HBox(list(controls.values()))
    side_by_side.layout.flex_flow = "row wrap"
    box.children = (side_by_side, *box.children[len(controls) :])
    return box


def _options(runs: pd.DataFrame, close_ups: CloseUps | None) -> dict[str, dict]:
    """What can be chosen for x, y and colour."""
    if close_ups is not None and "number" not in runs:
        raise ValueError(
            "close-ups are found by a run's number, and the table has no column "
            "`number`; give the table that lies beside them, or no close-ups"
        )
    families = dict(x=SHARPNESS, y=DIVERSITY, colour=QUALITY)
    options = {axis: trade.names(runs, family) for axis, family in families.items()}
    for axis, found in options.items():
        if not found:
            raise ValueError(
                f"the table has nothing to show as {axis}: it needs one of the columns "
                f"{', '.join(trade.names(None, families[axis]))}, as in evaluate"
            )
    return options


def _controls(
    runs: pd.DataFrame, about: pd.DataFrame, options: Mapping[str, Mapping[str, str]]
) -> dict[str, ipywidgets.Widget]:
    """A choice for each axis, a slider for what differs, and the choice of a run."""
    controls = {
        axis: ipywidgets.Dropdown(
            options=[(words, column) for column, words in options[axis].items()]
        )
        for axis in ("x", "y", "colour")
    }
    rho = [(f"{r:g}", r) for r in sorted(set(about["rho"]))]
    if len(rho) > 1:
        controls["rho"] = ipywidgets.SelectionSlider(
            options=rho, value=rho[-1][1], description="rho up to"
        )
    shares = [(f"{k:g}", k) for k in sorted(set(about["k"].dropna()))]
    if len(shares) > 1:
        controls["k"] = ipywidgets.SelectionSlider(
            options=[(EVERY, EVERY), *shares], description="k of SharpBalance"
        )
    for name in FILTERS:
        values = sorted(set(runs[name])) if name in runs else []
        if len(values) > 1:
            controls[name] = ipywidgets.SelectionSlider(
                options=[(f"{v:g}", v) for v in values], value=values[-1]
            )
    controls["run"] = ipywidgets.Dropdown(options=_runs(runs, about))
    return controls


def _runs(runs: pd.DataFrame, about: pd.DataFrame) -> list[tuple[str, int]]:
    """All runs by name, and none."""
    told = about["name"]
    for name in ("width", "seed"):
        if name in runs and runs[name].nunique() > 1:
            told = told + f", {name} " + runs[name].astype(str)
    first = ~about["number"].duplicated()
    return [*zip(told[first], about["number"][first].tolist()), ("none", NOBODY)]


def _twin(controls: Mapping[str, ipywidgets.Widget]) -> dict[str, Sequence]:
    """Two measures of sharpness, three of diversity, every rho; the rest stays."""
    kept = {name: [control.value] for name, control in controls.items()}
    few = {
        "x": ("worst_case_l2", "hessian_trace"),
        "y": ("test_der", "test_kl", "shift_der"),
        "colour": ("test_accuracy", "shift_accuracy"),
    }
    for name, wanted in few.items():
        offered = [value for _, value in controls[name].options]
        kept[name] += [v for v in wanted if v in offered and v not in kept[name]]
    if "rho" in controls:
        kept["rho"] = [value for _, value in controls["rho"].options][-4:]
    return kept


def row_html(row: pd.Series, about: pd.Series) -> str:
    """A run's own numbers, clean and shifted, as an HTML table."""
    head = "".join(f'<th scope="col">{name.replace("_", " ")}</th>' for name in TOLD)
    body = ""
    for images, word in trade.IMAGES.items():
        values = [row.get(f"{images}_{name}", np.nan) for name in TOLD]
        cells = "".join(f"<td>{v:.3f}</td>" if v == v else "<td></td>" for v in values)
        body += f'<tr><th scope="row">{word}</th>{cells}</tr>'
    seed = f", seed {row['seed']}" if "seed" in row else ""
    members = f", {row['members']} members" if "members" in row else ""
    caption = f"{about['name']}{seed}{members}: all test images"
    return (
        f"<table><caption>{caption}</caption><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def members_html(table: pd.DataFrame, caption: str) -> str:
    """`close_up.table` as an HTML table."""
    names = ["accuracy", "Brier score", "ECE", "log10 Fisher trace"]
    shown = table.set_axis(names, axis=1)
    html = shown.to_html(
        float_format=lambda v: f"{v:.3f}", na_rep="", border=0, justify="right"
    )
    return html.replace("<thead>", f"<caption>{caption}</caption><thead>", 1)


class _Below:
    """The close-up of a run, below the figure."""

    def __init__(
        self,
        runs: pd.DataFrame,
        about: pd.DataFrame,
        close_ups: CloseUps | None,
        images: data.Split | None,
    ) -> None:
        self.runs, self.about = runs, about
        self.close_ups, self.images = close_ups, images
        self.words = ipywidgets.HTML()
        self.matrix, self.calibration, self.gallery = (
            ipywidgets.Output() for _ in range(3)
        )
        side_by_side = ipywidgets.HBox([self.matrix, self.calibration])
        side_by_side.layout.flex_flow = "row wrap"
        self.widgets = [self.words, side_by_side, self.gallery]
        self.shown = None

    def show(self, run: int | None, equal: Mapping[str, Any]) -> None:
        """Show a run, if it is not already there."""
        if self.shown == (run, dict(equal)):
            return
        self.shown = run, dict(equal)
        there = trade.chosen(self.runs, self.about, **equal)
        at = np.flatnonzero(there & (self.about["number"].to_numpy() == run))
        outputs = (self.matrix, self.calibration, self.gallery)
        if not len(at):
            self.words.value = "<p>No run is chosen: click a point, or choose one.</p>"
        elif self.close_ups is None:
            self.words.value = row_html(self.runs.iloc[at[0]], self.about.iloc[at[0]])
            self.words.value += "<p>No members were kept of this table's runs.</p>"
        else:
            self._close_up(self.runs.iloc[at[0]], self.about.iloc[at[0]])
            return
        for output in outputs:
            output.outputs = ()

    def _close_up(self, row: pd.Series, about: pd.Series) -> None:
        kept = self.close_ups.probs.shape[1]
        run = close_up.of_run(
            self.close_ups, int(about["number"]), int(row.get("members", kept))
        )
        n = len(run.labels)
        caption = f"{about['name']} on the {n} images of the close-up"
        self.words.value = row_html(row, about) + members_html(
            close_up.table(run), caption
        )
        matrix = close_up.disagreement_matrix(run).numpy()
        names = [f"member {m}" for m in range(len(matrix))]
        unit = "share of images"
        title = "Pairs that vote differently"
        put(self.matrix, plots.matrix(matrix, names, title, unit))
        bins = close_up.calibration(run)
        put(self.calibration, album.reliability(bins, "Calibration"))
        if self.images is not None:
            at, classes = run.places, self.images.classes
            pixels = self.images.images[at].numpy()
            title = "The images on which they disagree most"
            figure = album.disputed(run, pixels, classes, DISPUTED, title)
            put(self.gallery, figure)
