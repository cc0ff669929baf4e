"""Figures show the numbers they are given, and say them in words."""

import numpy as np
import pandas as pd
import pytest

from sbtutor import plots, results

RUNS = pd.DataFrame(
    {
        "label": ["a", "a", "a", "b", "b", "b"],
        "x": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "y": [0.1, 0.2, 0.3, 0.6, 0.5, 0.4],
    }
)


def alt(figure):
    return figure.layout.meta["alt"]


def test_lines_draw_each_series_and_its_band():
    figure = plots.lines(
        [1, 2], {"up": [3.0, 4.0]}, "T", "x", "y", {"up": ([2.0, 3.0], [4.0, 5.0])}
    )
    band, line = figure.data
    assert list(line.y) == [3.0, 4.0]
    assert list(band.y) == [4.0, 5.0, 3.0, 2.0]  # up along high, back along low
    assert "x: up rises from 3 [2, 4] to 4 [3, 5]." in alt(figure)


def test_lines_take_the_columns_of_a_part_of_a_table(unchecked):
    part = RUNS[RUNS["label"] == "b"]
    bands = {"up": (part["y"] - 0.1, part["y"] + 0.1)}
    figure = plots.lines(part["x"], {"up": part["y"]}, "T", "x", "y", bands)
    assert list(figure.data[0].x) == [4.0, 5.0, 6.0, 6.0, 5.0, 4.0]
    assert figure.data[0].y == pytest.approx([0.7, 0.6, 0.5, 0.3, 0.4, 0.5])
    assert "up falls from 0.6 [0.5, 0.7] to 0.4 [0.3, 0.5]" in alt(figure)


def test_scatter_marks_means_and_intervals():
    figure = plots.scatter(RUNS, "x", "y", "label", "T", "x", "y", connect=["a", "b"])
    marks = [t for t in figure.data if t.name in ("a", "b")]
    assert [t.x[0] for t in marks] == [2.0, 5.0]
    assert marks[0].y[0] == pytest.approx(0.2)
    interval = results.interval([1.0, 2.0, 3.0])
    assert marks[0].error_x.array[0] == pytest.approx(interval.high - interval.mean)
    assert list(figure.data[0].x) == [2.0, 5.0]  # the line through the means
    assert "a at (2 [-0.484, 4.48], 0.2 [-0.0484, 0.448])" in alt(figure)


def test_scatter_of_single_runs_has_no_bars():
    figure = plots.scatter(RUNS.iloc[[0, 3]], "x", "y", "label", "T", "x", "y")
    assert [t.error_x.array[0] for t in figure.data if t.name in ("a", "b")] == [0, 0]
    assert "a at (1, 0.1); b at (4, 0.6)." in alt(figure)


def test_intervals_reach_from_low_to_high():
    frame = results.by_label(RUNS, "x")
    figure = plots.intervals(frame, "T", "x", points="values")
    means = [t for t in figure.data if t.error_x.array is not None]
    for trace, row in zip(means, frame.itertuples()):
        assert trace.x[0] + trace.error_x.array[0] == pytest.approx(row.high)
        assert trace.x[0] - trace.error_x.arrayminus[0] == pytest.approx(row.low)
    dots = [t for t in figure.data if t.error_x.array is None]
    assert [list(t.x) for t in dots] == frame["values"].tolist()


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.0, 10, 0.0, 0.2775), (0.5, 10, 0.2366, 0.7634), (1.0, 20, 0.8389, 1.0)],
)
def test_wilson_gives_the_published_intervals(share, n, low, high):
    """As scipy's binomtest(k, n).proportion_ci(method="wilson")."""
    from scipy.stats import binomtest

    ours = np.array(plots.wilson(np.array([share]), np.array([n])))[:, 0]
    assert ours == pytest.approx((low, high), abs=1e-4)
    theirs = binomtest(round(share * n), n).proportion_ci(method="wilson")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-6)


@pytest.mark.parametrize(("share", "n"), [(0.5, 0), (1.1, 5), (-0.1, 5)])
def test_wilson_refuses_what_is_no_share(share, n):
    with pytest.raises(ValueError, match=r"have no intervals; give shares in \[0, 1\]"):
        plots.wilson(np.array([0.5, share]), np.array([4, n]))


def test_reliability_shows_an_interval_for_each_bin():
    bins = ([0.5, 0.9], [0.6, 1.0], [10, 30])
    bar = plots.reliability({"one": bins}, "T").data[1].error_y
    low, high = plots.wilson(np.array(bins[1]), np.array(bins[2]))
    assert np.add(bins[1], bar.array) == pytest.approx(high, abs=1e-4)
    assert np.subtract(bins[1], bar.arrayminus) == pytest.approx(low, abs=1e-4)


def test_reliability_leaves_out_empty_bins():
    bins = ([0.5, np.nan, 0.9], [0.6, np.nan, 0.8], [10, 0, 30])
    figure = plots.reliability({"one": bins}, "T")
    assert list(figure.data[1].x) == [0.5, 0.9]
    assert "; 75% of the samples lie in bins" in alt(figure)


def test_matrix_shows_its_numbers():
    figure = plots.matrix([[0, 0.5], [0.5, 0]], ["a", "b"], "T", "share")
    assert figure.data[0].z.tolist() == [[0, 0.5], [0.5, 0]]


def test_matrix_says_which_pairs_are_alike_and_which_differ():
    z = [[1, 0.5, 0.2], [0.5, 1, 0.7], [0.2, 0.7, 1]]
    said = alt(plots.matrix(z, ["a", "b", "c"], "T", "share"))
    assert "beside the diagonal lowest 0.2 (a, c), highest 0.7 (b, c)" in said
    assert alt(plots.matrix([[0.25]], ["a"], "T", "share")) == "T. share: 0.25."


def test_surface_has_a_row_for_each_y_and_says_where_it_is_high():
    z = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    figure = plots.surface([10, 20, 30], [1, 2], z, "T", "across", "up", "height")
    (contour,) = figure.data
    assert contour.z.tolist() == z
    assert (list(contour.x), list(contour.y)) == ([10, 20, 30], [1, 2])
    assert "lowest 0 at (10, 1), highest 5 at (30, 2)" in alt(figure)
    assert "height over across and up" in alt(figure)


def test_surface_names_marked_points():
    marks = {"optimum": (20.0, 1.0)}
    figure = plots.surface(
        [10, 20], [1, 2], [[0.0, 1.0], [2.0, 3.0]], "T", "x", "y", "z", marks
    )
    mark = figure.data[1]
    (label,) = figure.layout.annotations
    assert (mark.x[0], mark.y[0], mark.name) == (20.0, 1.0, "optimum")
    assert (label.x, label.y, label.text) == (20.0, 1.0, "optimum")
    assert "optimum at (20, 1)" in alt(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_gallery_has_one_caption_an_image(channels):
    images = np.zeros((5, channels, 4, 4), np.uint8)
    figure = plots.gallery(images, list("abcde"), "T", columns=3)
    assert len(figure.data) == 5
    assert [a.text for a in figure.layout.annotations] == list("abcde")
    assert alt(figure) == "T. 5 images: a, b, c, d, e."


def test_gallery_says_the_first_captions():
    figure = plots.gallery(np.zeros((10, 1, 4, 4), np.uint8), list("abcdefghij"), "T")
    assert alt(figure) == "T. 10 images: a, b, c, d, e, f, g, h, and 2 more."
