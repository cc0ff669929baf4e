"""Explorers: controls around a function that draws a figure."""

from collections.abc import Callable

import ipywidgets
import plotly.graph_objects as go
from IPython.display import display


def explore(
    draw: Callable[..., go.Figure], **controls: ipywidgets.Widget
) -> ipywidgets.VBox:
    """Controls above, the figure that `draw` makes of their values below.

    Nothing is computed here that the notebook could not compute by calling `draw`.

    Args:
        draw: takes one argument a control and returns a figure.
        controls: a widget with a `value` for each argument of `draw`.

    Returns:
        A box; its last child holds the figure and follows the controls.
    """

    def show(**values: object) -> None:
        display(draw(**values))

    figure = ipywidgets.interactive_output(show, controls)
    for name, control in controls.items():
        control.description = control.description or name.replace("_", " ")
        control.style.description_width = "initial"
        control.layout.width = "420px"
    return ipywidgets.VBox([*controls.values(), figure])
