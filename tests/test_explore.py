"""Controls around a function that draws: the figure follows, errors are shown."""

import json

import ipywidgets
import plotly.graph_objects as go
import pytest

from sbtutor import explore, twins, widgets


def draw(rho):
    if rho > 0.8:
        raise ValueError("rho is too large")
    layout = dict(title_text=f"rho {rho}", meta={"alt": f"nothing at {rho}"})
    return go.Figure(layout=layout)


def slider(value=0.1):
    return ipywidgets.FloatSlider(value, min=0, max=1)


def title(box):
    figure, _ = box.figure.outputs
    return figure["data"][explore.PLOTLY]["layout"]["title"]["text"]


def test_controls_redraw_the_figure():
    rho = slider()
    box = widgets.explore(draw, rho=rho)
    assert title(box) == "rho 0.1"
    rho.value = 0.7
    assert title(box) == "rho 0.7"
    assert box.children[0] is box.controls["rho"] is rho
    assert rho.description == "rho"
    assert "sbtutor-explorer" in box._dom_classes


def test_a_description_of_the_control_is_kept():
    named = ipywidgets.Dropdown(options=["a"], description="which letter")
    plain = ipywidgets.Dropdown(options=["a"])
    widgets.explore(lambda a, b_c: go.Figure(), a=named, b_c=plain)
    assert (named.description, plain.description) == ("which letter", "b c")


def test_the_figure_is_followed_by_its_words():
    box = widgets.explore(draw, rho=slider())
    _, words = box.figure.outputs
    assert "nothing at 0.1" in words["data"]["text/html"]


def test_an_error_at_first_is_raised_and_a_later_one_is_shown():
    with pytest.raises(ValueError, match="too large"):
        widgets.explore(draw, rho=slider(0.9))
    rho = slider()
    box = widgets.explore(draw, rho=rho)
    rho.value = 0.9
    (said,) = box.figure.outputs
    assert "ValueError: rho is too large" in said["text"]
    rho.value = 0.2
    assert title(box) == "rho 0.2"


def test_a_click_hands_on_its_point():
    seen = []
    box = widgets.explore(draw, on_click=seen.append, rho=slider())
    (clicks,) = (child for child in box.children if isinstance(child, explore.Clicks))
    clicks.value = json.dumps({"point": [3, 1], "at": 1})
    clicks.value = json.dumps({"point": [3, 1], "at": 2})  # the same point once more
    assert seen == [[3, 1], [3, 1]]


def test_widgets_below_come_last():
    more = ipywidgets.HTML("more")
    box = widgets.explore(draw, below=[more], rho=slider())
    assert box.children[-1] is more


def test_put_replaces_what_was_there():
    output = ipywidgets.Output()
    for rho in (0.1, 0.2):
        explore.put(output, draw(rho))
    figure, words = output.outputs
    assert figure["data"][explore.PLOTLY]["layout"]["title"]["text"] == "rho 0.2"
    assert set(words["data"]) == {"text/html"}


def test_only_the_book_gets_a_twin(monkeypatch):
    box = widgets.explore(draw, twin={"rho": [0.1, 0.7]}, rho=slider())
    monkeypatch.delenv("SBTUTOR_TWINS", raising=False)
    assert twins.MIME not in bundle(box)
    monkeypatch.setenv("SBTUTOR_TWINS", "1")
    assert twins.MIME in bundle(box)


def bundle(box):
    found = box._repr_mimebundle_()
    return found[0] if isinstance(found, tuple) else found
