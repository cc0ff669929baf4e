"""Twins of explorers: which figures they hold, and in how little room."""

import ipywidgets
import numpy as np
import plotly.graph_objects as go
import pytest

from sbtutor import files, twins


def test_positions_are_the_values_that_a_control_can_take():
    slider = ipywidgets.FloatSlider(0.1, min=0.1, max=0.3, step=0.1)
    assert twins.positions(slider) == [0.1, 0.2, 0.3]
    whole = twins.positions(ipywidgets.IntSlider(2, min=2, max=8, step=3))
    assert whole == [2, 5, 8]
    assert all(type(value) is int for value in whole)
    logs = ipywidgets.FloatLogSlider(0.1, base=10, min=-2, max=0, step=1)
    assert twins.positions(logs) == [0.01, 0.1, 1.0]
    around = ipywidgets.FloatSlider(0, min=-0.3, max=0.3, step=0.1)
    assert twins.positions(around) == [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]
    pairs = ipywidgets.Dropdown(options=[("one", 1), ("two", 2)])
    assert twins.positions(pairs) == [1, 2]
    assert twins.positions(ipywidgets.Checkbox()) == [False, True]


def test_a_given_value_off_the_grid_is_one_of_the_positions():
    slider = ipywidgets.FloatSlider(0.17, min=0, max=0.4, step=0.2)
    assert twins.positions(slider) == [0, 0.17, 0.2, 0.4]
    assert 0.17 in twins.chosen({"a": slider}, most=3)["a"]


def test_values_are_spoken_as_the_readout_says_them():
    pairs = ipywidgets.Dropdown(options=[("one", 1), ("two", 2)])
    assert twins.spoken(pairs, 2) == "two"
    slider = ipywidgets.FloatSlider()
    assert twins.spoken(slider, 0.30000001) == "0.3"
    assert twins.spoken(slider, 7) == "7"
    assert twins.spoken(ipywidgets.Checkbox(), True) == "yes"


@pytest.mark.parametrize("at", range(0, 101, 7))
def test_chosen_values_are_few_and_hold_the_current_one(at):
    controls = {
        "a": ipywidgets.IntSlider(at, max=100),
        "b": ipywidgets.IntSlider(at, max=100),
        "c": ipywidgets.Checkbox(),
    }
    kept = twins.chosen(controls, most=40)
    assert len(kept["a"]) * len(kept["b"]) * len(kept["c"]) <= 40
    assert all(controls[name].value in values for name, values in kept.items())
    assert len(kept["a"]) > 2


def test_controls_stay_where_they_are_when_even_three_values_each_are_too_many():
    controls = {name: ipywidgets.IntSlider(4, max=8) for name in "abcd"}
    kept = twins.chosen(controls, most=30)
    assert [len(values) for values in kept.values()] == [3, 3, 3, 1]
    assert kept["d"] == [4]


def line(slope, kind, bend):
    x = np.arange(3.0)
    figure = go.Figure(go.Scatter(x=x, y=slope * x, name=kind))
    return figure.update_layout(title=f"{slope} {kind} {bend}", template={})


CONTROLS = {
    "slope": ipywidgets.IntSlider(2, max=9, description="Slope"),
    "kind": ipywidgets.Dropdown(options=["p", "q"], value="q"),
    "bend": ipywidgets.Checkbox(),
}


def made():
    return twins.states(line, CONTROLS, {"slope": (0, 2, 9)})


def test_a_twin_has_a_figure_for_each_combination_the_last_control_fastest():
    twin = made()
    titles = [f["layout"]["title"]["text"] for f in twin["figures"]]
    assert titles[:5] == ["0 p False", "0 p True", "0 q False", "0 q True", "2 p False"]
    assert len(titles) == 3 * 2 * 2
    assert twin["controls"] == [
        {"label": "Slope", "values": ["0", "2", "9"], "at": 1, "number": True},
        {"label": "kind", "values": ["p", "q"], "at": 1, "number": False},
        {"label": "bend", "values": ["no", "yes"], "at": 0, "number": False},
    ]
    assert titles[twins.current(twin)] == "2 q False"


def test_a_twin_starts_where_its_explorer_does():
    with pytest.raises(ValueError, match=r"'slope' is at 2 and the twin has \[0, 9\]"):
        twins.states(line, CONTROLS, {"slope": [0, 9]})


def test_ordered_choices_are_numbers_to_slide_over():
    slider = ipywidgets.SelectionSlider(options=["low", "high"], value="low")
    twin = twins.states(lambda a: go.Figure(), {"a": slider})
    assert twin["controls"][0]["number"] is True


def test_figures_are_slimmed_to_four_digits_in_plain_lists():
    z = np.array([[1 / 3, np.nan], [2e-9 / 3, 12345.678]])
    figure = go.Figure(go.Heatmap(z=z, x=np.array([1, 2]), colorscale="Viridis"))
    trace = twins.slim(figure)["data"][0]
    assert trace["z"] == [[0.3333, None], [6.667e-10, 12350.0]]
    assert trace["x"] == [1, 2]


def test_packing_can_be_undone_and_keeps_equal_parts_once():
    twin = made()
    packed = twins.pack(twin)
    assert twins.unpack(packed) == twin
    assert packed["pool"].count({"is": [0.0, 1.0, 2.0]}) == 1
    texts = [str(part) for part in packed["pool"]]
    assert len(texts) == len(set(texts))


def test_packing_takes_texts_along_on_request():
    twin = made() | {"words": ["a", "b"] * 6}
    packed = twins.pack(twin, "words")
    assert packed["words"][0] == packed["words"][2] != packed["words"][1]
    assert twins.unpack(packed) == twin
    assert "words" not in twins.pack(twin)


@pytest.mark.parametrize(
    "value", [None, 0, "", [], [[1, 2], [3]], {}, [{}, None], {"is": 1}, {"has": {}}]
)
def test_any_json_can_be_packed(value):
    twin = {"controls": [], "figures": [value, {"data": value}]}
    assert twins.unpack(twins.pack(twin)) == twin


def test_side_files_hold_twins_and_are_the_same_bytes_again(tmp_path, capsys):
    lesson = tmp_path / "01_x.ipynb"
    side = twins.side_file(lesson)
    assert side == tmp_path / "twins" / "01_x.json.gz"
    assert twins.load(lesson) == {}
    found = {"a": [twins.pack(made())]}
    written = []
    for _ in range(2):
        twins.save(found, lesson)
        written.append(side.read_bytes())
    assert written[0] == written[1]
    assert twins.load(lesson) == found
    assert capsys.readouterr().out == ""
    twins.save({}, lesson)
    assert not side.exists()


def test_long_twins_are_told(tmp_path, capsys):
    twins.save({"a": ["short"], "b": ["x" * 700_000]}, tmp_path / "01_x.ipynb")
    said = capsys.readouterr().out
    assert said.startswith("b: its twin takes 700 kB of the book's page; draw less")
    assert said.count("\n") == 1


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_broken_side_files_are_named(tmp_path, cut):
    lesson = tmp_path / "01_x.ipynb"
    twins.save({"a": [1]}, lesson)
    side = twins.side_file(lesson)
    side.write_bytes(side.read_bytes()[:cut])
    with pytest.raises(files.BrokenFileError, match=r"01_x.json.gz was cut short or"):
        twins.load(lesson)
