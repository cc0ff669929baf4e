"""What JupyterLab lacks: dark figures, their words, and names for controls."""

import json
from pathlib import Path

import plotly.io as pio
from IPython import get_ipython
from IPython.display import display
from plotly.io.base_renderers import ExternalRenderer

from sbtutor import describe, theme

SCRIPT = Path(__file__).with_name("assets") / "lab.js"
DARK = 'body[data-jp-theme-light="false"]'
STYLE = (  # and no button may send a figure, or a learner, to plotly's site
    ".js-plotly-plot :is(.modebar-btn--logo,[data-title^=Share]){display:none}"
    ".sbtutor-words{margin:0 0 1em 1em;max-width:60em;overflow-x:auto}"
    ".sbtutor-words summary{cursor:pointer}"
    ".jp-RenderedMarkdown details{margin-bottom:.6em}"
    ".jp-OutputArea-output pre{word-break:normal;overflow-wrap:anywhere}"
    ".sbtutor-explorer{padding-left:4px}"
    ".sbtutor-explorer .widget-inline-hbox{margin-right:12px}"
    ".sbtutor-explorer :is(td,th){text-align:right;padding:.1em .6em}"
)


class Words(ExternalRenderer):
    """Shows a figure's words and numbers below it."""

    def render(self, fig: dict) -> None:
        """Called by plotly after each figure that it shows."""
        show(describe.details(json.loads(pio.to_json(fig, validate=False))))


def show(html: str) -> None:
    """Display HTML, where there is a notebook to display it."""
    if get_ipython() is not None:
        display({"text/html": html, "text/plain": ""}, raw=True)


def page() -> str:
    """What a notebook's page needs, once, as HTML; see `assets/lab.js`.

    The style goes to the page's head, so it outlives the output that brought it.
    """
    style = json.dumps(theme.stylesheet(DARK) + STYLE).replace("</", "<\\/")
    script = SCRIPT.read_text(encoding="utf-8").replace("= STYLE;", f"= {style};")
    return f'<script data-sbtutor="page">{script}</script>'


def set_up() -> None:
    """Show figures by JupyterLab's own plotly, each with its words below it."""
    pio.renderers["sbtutor"] = Words()
    pio.renderers.default = "plotly_mimetype+sbtutor"
    show(page())
