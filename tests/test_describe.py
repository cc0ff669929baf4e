"""Words and tables say what a figure shows."""

import json
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from sbtutor import describe, maps, plots


def spec(figure):
    """As a notebook keeps it: arrays as base64."""
    return json.loads(figure.to_json())


@pytest.mark.parametrize(
    ("y", "said"),
    [
        ([1, 2, 3], "rises from 1 to 3"),
        ([3, 2, 1], "falls from 3 to 1"),
        ([2, 2, 2], "stays at 2"),
        ([2], "is 2"),
        ([], "has no values"),
        ([np.nan, np.nan], "has no values"),
        ([np.nan, 1, 4, np.nan], "rises from 1 to 4"),
        ([0, 9, 1], "rises from 0 to 9 at b, then falls to 1"),
        ([5, 1, 4], "falls from 5 to 1 at b, then rises to 4"),
        ([0, 10, 11, 10.5], "rises from 0 to 10.5"),  # a turn too small to tell
        ([2, 9, 0, 3], "goes up and down between 0 and 9, from 2 to 3"),
        ([1e-8, 12345.0], "rises from 1e-8 to 1.23e4"),
    ],
)
def test_trend_says_which_way_values_go(y, said):
    assert describe.trend("abcd", y) == said


def test_trend_gives_the_intervals_of_what_it_names():
    said = describe.trend([1, 2, 4], [3, 1, 2], [2, 0, 1], [4, 2, 3])
    assert said == "falls from 3 [2, 4] to 1 [0, 2] at 2, then rises to 2 [1, 3]"
    one_run = describe.trend([1, 2], [3, 1], [np.nan, 0], [np.nan, 2])
    assert one_run == "falls from 3 to 1 [0, 2]"


def test_less_and_greater_are_no_markup():
    layout = {"meta": {"alt": "<b>Loss</b> for a < 1, b > 2 <br>and c."}}
    assert describe.alt({"layout": layout}) == "Loss  for a < 1, b > 2  and c."


def test_a_figure_without_words_is_described_by_its_data():
    figure = go.Figure(layout=dict(title_text="One &lt; <b>two</b>"))
    figure.add_scatter(x=[1, 2], y=[3.0, 4.0], name="up")
    figure.add_bar(x=["a", "b"], y=[2.0, 1.0], name="down")
    said = "One < two. up rises from 3 to 4; down falls from 2 to 1."
    assert describe.alt(spec(figure)) == said.replace("< two", "<  two")
    assert describe.alt({}) == "figure"
    assert describe.alt({"layout": {"meta": {"alt": "Mine."}}}) == "Mine."


def test_series_over_one_x_stand_side_by_side_with_their_bands():
    bands = {"a": ([0.5, 1.5], [1.5, 2.5])}
    series = {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    figure = plots.lines([10, 20], series, "T", "members", "nll", bands)
    assert describe.table(spec(figure)) == [
        ["members", "a", "b"],
        ["10", "1 [0.5, 1.5]", "3"],
        ["20", "2 [1.5, 2.5]", "4"],
    ]


def test_a_single_line_is_headed_by_its_axes():
    figure = plots.lines([1, 2], {"a": [0.5, 0.25]}, "T", "members", "nll")
    assert describe.table(spec(figure))[0] == ["members", "nll"]


def test_arrays_in_base64_are_read():
    figure = go.Figure()
    figure.add_scatter(x=np.array([1, 2]), y=np.array([0.5, 0.25]), name="a")
    assert "bdata" in spec(figure)["data"][0]["y"]
    rows = describe.table(spec(figure))
    assert rows == [["x", "y"], ["1", "0.5"], ["2", "0.25"]]


def test_error_bars_become_intervals():
    frame = pd.DataFrame(
        {
            "method": ["a", "b"],
            "mean": [1.0, 2.0],
            "low": [0.5, 1.0],
            "high": [2.0, 4.0],
        }
    )
    assert describe.table(spec(plots.intervals(frame, "T", "nll"))) == [
        ["series", "nll"],
        ["a", "1 [0.5, 2]"],
        ["b", "2 [1, 4]"],
    ]
    frame["values"] = [[0.75], [3.0]]
    figure = plots.intervals(frame, "T", "nll", points="values")
    assert ["b, single", "3"] in describe.table(spec(figure))


def test_single_runs_are_left_out_where_they_are_too_many():
    count = describe.ROWS
    frame = pd.DataFrame(
        {
            "label": ["a", "b"] * count,
            "x": np.arange(2.0 * count),
            "y": np.tile([1.0, 2.0], count),
        }
    )
    figure = plots.scatter(frame.iloc[:6], "x", "y", "label", "T", "trace", "der")
    few = describe.table(spec(figure))
    assert ["b, single", "5", "2"] in few
    assert len(few) == 1 + 6 + 2
    figure = plots.scatter(frame, "x", "y", "label", "T", "trace", "der")
    head, *rows = describe.table(spec(figure))
    assert head == ["series", "trace", "der"]
    assert [row[0] for row in rows] == ["a", "b"]
    assert rows[0][1].startswith("39 [")


def test_lines_and_marks_that_guide_the_eye_are_left_out():
    frame = pd.DataFrame({"label": ["a", "b"], "x": [1.0, 2.0], "y": [3.0, 4.0]})
    figure = plots.scatter(frame, "x", "y", "label", "T", "x", "y", connect=["a", "b"])
    names = {row[0] for row in describe.table(spec(figure))[1:]}
    assert names == {"a, single", "a", "b, single", "b"}
    square = np.arange(100.0).reshape(10, 10)
    figure = plots.surface(
        range(10), range(10), square, "T", "x", "y", "loss", {"mark": (1.0, 2.0)}
    )
    assert [row[0] for row in describe.table(spec(figure))[1:]] == ["loss"]


def test_many_points_are_summed_up():
    y = [i**2 for i in range(100)]
    figure = plots.lines(range(100), {"a": y}, "T", "x", "y")
    head, row = describe.table(spec(figure))
    assert head == describe.SUMMED
    assert row == ["a", "100", "0", "9801", "0", "2450", "9801"]
    assert "Each series, summed up" in describe.details(spec(figure))


def test_small_heatmaps_are_written_out_and_large_ones_summed_up():
    figure = plots.matrix([[0, 0.5], [0.25, 0]], ["a", "b"], "T", "share")
    assert describe.table(spec(figure)) == [
        ["share", "a", "b"],
        ["a", "0", "0.5"],
        ["b", "0.25", "0"],
    ]
    z = {name: np.arange(400.0).reshape(20, 20) for name in ("one", "two")}
    rows = describe.table(spec(maps.heatmaps(z, ["r", "s"], "T", "epoch")))
    assert rows[1] == ["one", "400", "0", "399", "0", "199.5", "399"]
    assert [row[0] for row in rows[1:]] == ["one", "two"]


def test_images_are_told_by_their_captions():
    figure = plots.gallery(np.zeros((2, 1, 4, 4), np.uint8), ["cat", "dog"], "T")
    rows = describe.table(spec(figure))
    assert rows == [["image", "caption"], ["1", "cat"], ["2", "dog"]]


def test_panels_are_told_apart_by_their_headings():
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, subplot_titles=["left", "right"])
    figure.add_scatter(x=[1], y=[2], name="a", row=1, col=1)
    figure.add_scatter(x=[3], y=[4], name="a", row=1, col=2)
    names = [row[0] for row in describe.table(spec(figure))[1:]]
    assert names == ["left: a", "right: a"]


def test_details_are_html_that_is_escaped_and_small():
    noise = np.random.default_rng(0).normal(size=(8, 30)).tolist()
    series = {f"{i} < 9": y for i, y in enumerate(noise)}
    figure = plots.lines(range(30), series, "A & B", "x", "y")
    html = describe.details(spec(figure))
    assert "0 < 9" not in html
    assert "0 &lt; 9" in html
    assert "A &amp; B" in html
    assert html.startswith('<details class="sbtutor-words"><summary>In words and num')
    assert html.count('<th scope="col">') == len(describe.SUMMED)
    assert len(html.encode()) < 2 * describe.BYTES


def test_every_table_is_a_rectangle():
    figure = plots.lines([1, 2], {"a": [1, 2], "b": [3]}, "T", "x", "y")
    figure.add_scatter(y=[1, None, 3], mode="lines")
    rows = describe.table(spec(figure))
    assert {len(row) for row in rows} == {3}
    assert ["y", "1", "nan"] in rows
    html = describe.details(spec(figure))
    assert len(re.findall("<td>", html)) == 3 * (len(rows) - 1)
