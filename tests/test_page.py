"""What `lab` gives a notebook's page."""

import json

import plotly.graph_objects as go
import plotly.io as pio
import pytest

from sbtutor import lab, lessons, plots, theme


@pytest.fixture
def shown(monkeypatch):
    """All that is displayed, as a notebook would keep it."""
    seen = []
    monkeypatch.setattr(lab, "get_ipython", lambda: "a notebook")
    monkeypatch.setattr(lab, "display", lambda data, raw: seen.append(data))
    monkeypatch.setattr("plotly.io._renderers.ipython_display.display", lab.display)
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    return seen


def test_each_figure_is_followed_by_its_words(shown):
    lab.set_up()
    plots.lines([1, 2], {"a": [0.5, 0.25]}, "T", "members", "nll").show()
    page, figure, words = shown
    assert 'data-sbtutor="page"' in page["text/html"]
    assert lessons.PLOTLY in figure
    assert "a falls from 0.5 to 0.25" in words["text/html"]
    assert "<td>0.25" in words["text/html"]


def test_arrays_have_numbers_in_the_words(shown):
    import numpy as np

    lab.set_up()
    go.Figure(go.Scatter(x=np.arange(3), y=np.array([0.1, 0.2, 0.3]))).show()
    assert "<td>0.2<" in shown[2]["text/html"]


def test_nothing_is_shown_without_a_notebook(capsys):
    lab.show("<p>words</p>")
    assert capsys.readouterr().out == ""


def test_the_page_has_the_dark_style_and_stays_one_script():
    page = lab.page()
    assert page.count("</script>") == 1
    style = json.loads(page.partition("textContent = ")[2].partition(";\n")[0])
    assert theme.stylesheet(lab.DARK) in style
    assert len(lab.SCRIPT.read_bytes()) < 3000
