"""Explorers: controls around a function that draws a figure."""

import json
import traceback
from collections.abc import Callable

import ipywidgets
import plotly.graph_objects as go


def explore(
    draw: Callable[..., go.Figure], **controls: ipywidgets.Widget
) -> ipywidgets.VBox:
    """Controls above, the figure that `draw` makes of their values below.

    Nothing is computed here that the notebook could not compute by calling `draw`.

    Args:
        draw: takes one argument a control and returns a figure.
        controls: a widget with a `value` for each argument of `draw`.

    Returns:
        A box; its last child holds the figure and follows the controls. An error of
        `draw` when a control has moved is shown in the figure's place.
    """
    figure = ipywidgets.Output()

    # The output is set, not captured: a captured one makes nbclient talk back to the
    # kernel, and sometimes wait forever (github.com/jupyter/nbclient/issues/312).
    def show() -> None:
        drawn = draw(**{name: control.value for name, control in controls.items()})
        data = {"application/vnd.plotly.v1+json": json.loads(drawn.to_json())}
        shown = {"output_type": "display_data", "data": data, "metadata": {}}
        figure.outputs = (shown,)

    def follow(_: object) -> None:
        try:
            show()
        except Exception:
            text = traceback.format_exc()
            figure.outputs = (
                {"output_type": "stream", "name": "stderr", "text": text},
            )

    for name, control in controls.items():
        control.description = control.description or name.replace("_", " ")
        control.style.description_width = "initial"
        control.layout.width = "420px"
        control.observe(follow, names="value")
    show()
    return ipywidgets.VBox([*controls.values(), figure])
