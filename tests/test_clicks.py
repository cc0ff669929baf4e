"""What explorers are made of; tests/test_lab.py moves and clicks them in JupyterLab."""

import json

import ipywidgets
import plotly.graph_objects as go

from sbtutor import explore


def test_a_click_hands_on_the_points_customdata():
    got = []
    clicked = explore.Clicks(got.append)
    clicked.value = json.dumps({"point": ["run 3", 0.1], "at": 1})
    clicked.value = json.dumps({"point": ["run 3", 0.1], "at": 2})  # again
    assert got == [["run 3", 0.1], ["run 3", 0.1]]


def test_a_click_that_nobody_waits_for_does_nothing():
    explore.Clicks().value = "{}"


def test_the_field_for_clicks_is_hidden_and_belongs_to_its_explorer():
    got = []
    box = explore.explore(
        lambda a: go.Figure(), on_click=got.append, a=ipywidgets.IntSlider()
    )
    (field,) = (w for w in box.children if "sbtutor-clicks" in w._dom_classes)
    assert field.layout.display == "none"
    field.value = '{"point": 5, "at": 0}'
    assert got == [5]
