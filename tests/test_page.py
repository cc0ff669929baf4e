"""What `lab` gives a notebook's page."""

import json

import nbformat
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
    assert len(lab.SCRIPT.read_bytes()) < 4000


def test_lessons_keep_the_words_but_not_the_page():
    texts = ("<p>words</p>", lab.page())
    shown = [nbformat.v4.new_output("display_data", {"text/html": t}) for t in texts]
    printed = nbformat.v4.new_output("stream", text="said")
    cell = nbformat.v4.new_code_cell("start()", outputs=[*shown, printed])
    lessons.tidy(nbformat.v4.new_notebook(cells=[cell]))
    assert cell.outputs == [shown[0], printed]


def test_lessons_are_written_without_leading_spaces(tmp_path):
    cell = nbformat.v4.new_code_cell("if a:\n    'ü'")
    nb = nbformat.v4.new_notebook(cells=[cell])
    lessons.write(nb, tmp_path / "a.ipynb")
    text = (tmp_path / "a.ipynb").read_text(encoding="utf-8")
    assert not any(line.startswith(" ") for line in text.splitlines())
    assert lessons.read(tmp_path / "a.ipynb") == nb
