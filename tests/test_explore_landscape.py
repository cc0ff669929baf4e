"""The landscape explorer shows the committed slices, and these hold together."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sbtutor import explore, explore_landscape, files, paths, widgets

PLANES = Path(__file__).parents[1] / "notebooks" / "results" / "planes"
KINDS = ("deep ensemble", "SAM 0.1", "fine-tuned from one checkpoint")
WAYS = ("straight line", "curve")


@pytest.fixture(scope="module")
def slices():
    return explore_landscape.load(PLANES)


def title(box):
    figure, _ = box.figure.outputs
    return figure["data"][explore.PLOTLY]["layout"]["title"]["text"]


def test_there_are_two_paths_of_three_kinds(slices, capsys):
    assert list(slices) == [(kind, way) for kind in KINDS for way in WAYS]
    assert [slices[kind, "curve"].classes for kind in KINDS] == [10, 10, 5]


def test_the_story_is_told(capsys):
    explore_landscape.load(PLANES)
    assert "recompute.py planes" in capsys.readouterr().out


def test_the_files_are_small():
    size = sum(PLANES.with_suffix(s).stat().st_size for s in (".npz", ".csv", ".json"))
    assert size < 150_000


def test_the_table_agrees_with_the_slices(slices):
    for _, row in pd.read_csv(f"{PLANES}.csv").iterrows():
        found = slices[row["networks"], row["path"]].values
        losses = torch.from_numpy(found["path_loss"])
        barrier = float(paths.barrier(losses))
        assert row["barrier"] == pytest.approx(barrier, abs=2e-4)
        assert row["least_accuracy"] == pytest.approx(found["path_accuracy"].min())
        steps = np.linalg.norm(np.diff(found["way"], axis=0), axis=1)
        assert row["length"] == pytest.approx(steps.sum(), rel=1e-3)


def test_a_path_begins_and_ends_at_the_networks(slices):
    """There the disagreement with themselves is 0, in both planes alike."""
    for kind in KINDS:
        line, curve = (slices[kind, way].values for way in WAYS)
        for values in (line, curve):
            ends = values["way"][[0, -1]]
            np.testing.assert_allclose(ends, values["marks"][:2], atol=1e-3)
            assert values["path_disagreement"][0, 0] == 0
            assert values["path_disagreement"][-1, 1] == 0
        for end in (0, -1):
            assert line["path_loss"][end] == pytest.approx(curve["path_loss"][end])


def test_the_plane_agrees_with_the_path_that_lies_in_it(slices):
    """Near a point of the grid, path and plane have nearly the same accuracy."""
    compared = 0
    for found in slices.values():
        values = found.values
        for t, (x, y) in enumerate(values["way"]):
            i, j = abs(values["y"] - y).argmin(), abs(values["x"] - x).argmin()
            step = values["x"][1] - values["x"][0]
            if math.hypot(values["y"][i] - y, values["x"][j] - x) > step / 6:
                continue
            compared += 1
            assert values["accuracy"][i, j] == pytest.approx(
                values["path_accuracy"][t], abs=0.08
            )
    assert compared > 5


@pytest.mark.parametrize("quantity", explore_landscape.QUANTITIES)
def test_the_figure_shows_the_slice(slices, quantity):
    shown = slices["deep ensemble", "curve"]
    figure = explore_landscape.figure(shown, quantity, 0.25)
    contour = figure.data[0]
    low, high = shown.shades(quantity)
    assert np.array(contour.z) == pytest.approx(
        shown.values[quantity].clip(low, high), abs=1e-3
    )
    profile = [trace for trace in figure.data if trace.xaxis == "x2"]
    expected = np.atleast_2d(shown.values[f"path_{quantity}"].T)
    for trace, row in zip(profile, expected):
        assert trace.y == pytest.approx(row, abs=1e-3)
    at = round(0.25 * 20)
    stars = [trace for trace in figure.data if trace.name == "you"]
    assert (stars[0].x[0], stars[0].y[0]) == pytest.approx(shown.values["way"][at])
    assert [star.y[0] for star in stars[1:]] == pytest.approx(expected[:, at])
    assert figure.layout.title.text.startswith("t = 0.25: loss ")


def test_colours_end_where_a_network_only_guesses(slices):
    shown = slices["fine-tuned from one checkpoint", "curve"]
    assert shown.shades("loss")[1] == math.log(5)
    assert shown.shades("accuracy")[0] == 1 / 5
    assert shown.shades("disagreement") == (0, 1 - 1 / 5)


def test_the_other_path_is_in_grey(slices):
    line, curve = (slices["SAM 0.1", way] for way in WAYS)
    figure = explore_landscape.figure(curve, "loss", 0.5, line)
    (grey,) = (trace for trace in figure.data if trace.name == "straight line")
    assert grey.y == pytest.approx(line.values["path_loss"], abs=1e-3)


def test_controls_and_clicks_move_the_marker():
    box = widgets.landscape(PLANES)
    assert title(box).startswith("t = 0.50")
    for child in box.children:
        if isinstance(child, explore.Clicks):
            child.value = json.dumps({"point": 0.85, "at": 1})
    assert box.controls["t"].value == 0.85
    assert title(box).startswith("t = 0.85")
    before = title(box)
    for name, value in (("path", "curve"), ("networks", KINDS[1])):
        box.controls[name].value = value
        assert title(box) != before
        before = title(box)
    box.controls["quantity"].value = "accuracy"
    shown = box.figure.outputs[0]["data"][explore.PLOTLY]
    assert shown["layout"]["annotations"][0]["text"] == "accuracy on the plane"


def test_each_point_of_the_path_can_be_clicked(slices):
    shown = slices["deep ensemble", "straight line"]
    figure = explore_landscape.figure(shown, "loss", 0.5)
    clickable = [trace.customdata for trace in figure.data if trace.customdata]
    assert clickable == [tuple(shown.times)] * 2


def test_the_twin_holds_the_first_values():
    box = widgets.landscape(PLANES)
    for name, values in box.twin.items():
        assert box.controls[name].value in values


def test_missing_and_broken_slices_are_told(tmp_path):
    with pytest.raises(ValueError, match="no committed result"):
        explore_landscape.load(tmp_path / "planes")
    for suffix in (".csv", ".json", ".npz"):
        content = PLANES.with_suffix(suffix).read_bytes()
        (tmp_path / f"planes{suffix}").write_bytes(content)
    (tmp_path / "planes.npz").write_bytes(b"no archive")
    with pytest.raises(files.BrokenFileError, match="cut short or altered"):
        explore_landscape.load(tmp_path / "planes")
