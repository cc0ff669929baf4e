"""Controls around a function that draws a figure: what all explorers are made of."""

import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
import plotly.graph_objects as go

from sbtutor import describe, twins

PLOTLY = "application/vnd.plotly.v1+json"


class Clicks(ipywidgets.Text):
    """Tells the kernel which point of its explorer's figure was clicked.

    The figure is drawn by JupyterLab's plotly extension and stays an ordinary output:
    plotly's own FigureWidget would cost 5 MB each and go stale when the page is
    reloaded. `assets/lab.js` writes the point's `customdata` into this hidden field.
    """

    def __init__(self, on_click: Callable[[Any], None] | None = None) -> None:
        super().__init__(layout={"display": "none"})
        self.add_class("sbtutor-clicks")
        if on_click is not None:
            self.observe(lambda c: on_click(json.loads(c["new"])["point"]), "value")


class Explorer(ipywidgets.VBox):
    """Controls above, a figure below that follows them.

    Attributes:
        controls: the controls, by the names of the arguments of `draw`.
        figure: the output that holds the figure; its description is below it.
    """

    def __init__(
        self,
        draw: Callable[..., go.Figure],
        controls: Mapping[str, ipywidgets.Widget],
        on_click: Callable[[Any], None] | None = None,
        twin: Mapping[str, Sequence] | None = None,
        below: Sequence[ipywidgets.Widget] = (),
    ) -> None:
        """Draw the first figure; see `explore` for the arguments."""
        self.draw, self.controls, self.twin = draw, dict(controls), twin
        self.figure = ipywidgets.Output()
        for name, control in self.controls.items():
            control.description = control.description or name.replace("_", " ")
            control.style.description_width = "initial"
            control.layout.width = "420px"
            control.observe(self._follow, names="value")
        self.show()
        clicked = Clicks(on_click)
        super().__init__([*self.controls.values(), self.figure, clicked, *below])
        self.add_class("sbtutor-explorer")

    # The output is set, not captured: a captured one makes nbclient talk back to the
    # kernel, and sometimes wait forever (github.com/jupyter/nbclient/issues/312).
    def show(self) -> None:
        """Draw the figure for the controls as they are."""
        values = {name: control.value for name, control in self.controls.items()}
        put(self.figure, self.draw(**values))

    def _follow(self, _: object) -> None:
        try:
            self.show()
        except Exception:
            text = traceback.format_exc()
            said = {"output_type": "stream", "name": "stderr", "text": text}
            self.figure.outputs = (said,)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget and, where $SBTUTOR_TWINS is set, its twin for the book."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if not os.environ.get("SBTUTOR_TWINS"):
            return bundle
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        twin = twins.states(self.draw, self.controls, self.twin)
        return data | {twins.MIME: twins.pack(twin)}, metadata


def put(output: ipywidgets.Output, figure: go.Figure) -> None:
    """Show a figure and its description in an output, in place of what was there."""
    data = json.loads(figure.to_json())
    output.outputs = tuple(
        {"output_type": "display_data", "data": {kind: content}, "metadata": {}}
        for kind, content in ((PLOTLY, data), ("text/html", describe.details(data)))
    )


def explore(
    draw: Callable[..., go.Figure],
    on_click: Callable[[Any], None] | None = None,
    twin: Mapping[str, Sequence] | None = None,
    below: Sequence[ipywidgets.Widget] = (),
    **controls: ipywidgets.Widget,
) -> Explorer:
    """Controls above, the figure that `draw` makes of their values below.

    Nothing is computed here that the notebook could not compute by calling `draw`.

    Args:
        draw: takes one argument a control and returns a figure.
        on_click: called with the `customdata` of a point that is clicked.
        twin: the values of some controls in the book's twin of this explorer; it has
            a figure for each combination, and chooses for itself where none are given.
        below: more widgets, below the figure.
        controls: a widget with a `value` for each argument of `draw`.

    Returns:
        A box whose figure follows the controls. An error of `draw` when a control has
        moved is shown in the figure's place.
    """
    return Explorer(draw, controls, on_click, twin, below)
