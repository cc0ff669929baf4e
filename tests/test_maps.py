"""Figures of weight and function space show the numbers they are given."""

import numpy as np
import pandas as pd
import pytest

from sbtutor import maps


def alt(figure):
    return figure.layout.meta["alt"]


def test_heatmaps_say_what_lies_within_and_between_blocks():
    """Rows 0, 1 are one block, rows 2, 3 the other; the diagonal does not count."""
    one = np.array(
        [[9, 1, 5, 5], [1, 9, 5, 5], [5, 5, 9, 3], [5, 5, 3, 9]], dtype=float
    )
    figure = maps.heatmaps({"a": one, "b": -one}, ["run 0", "run 1"], "T", "epoch")
    first, second = figure.data
    assert first.z.tolist() == one.tolist()
    assert second.z.tolist() == (-one).tolist()
    assert "a: mean within a block 2, between blocks 5;" in alt(figure)
    assert list(figure.layout.xaxis.tickvals) == [0.5, 2.5]
    assert list(figure.layout.yaxis2.ticktext) == ["run 0", "run 1"]


def test_trajectories_mark_start_and_end_and_show_clouds():
    path = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
    cloud = np.array([[5.0, 6.0]])
    figure = maps.trajectories({"run 0": path}, "T", {"dropout": cloud})
    line, points = figure.data
    assert (list(line.x), list(line.y)) == ([0, 1, 3], [0, 2, 4])
    assert line.marker.symbol[0] == "star-open"
    assert line.marker.size[1] < line.marker.size[0] == line.marker.size[2]
    assert (list(points.x), list(points.y)) == ([5], [6])
    assert line.marker.color != points.marker.color
    assert "run 0 goes from (0, 0) to (3, 4), dropout lies around (5, 6)" in alt(figure)


def test_the_diversity_accuracy_plane_has_both_limits_and_every_network():
    frame = pd.DataFrame(
        {
            "method": ["optima", "dropout", "dropout"],
            "accuracy": [0.7, 0.5, 0.6],
            "normalized_disagreement": [0.9, 0.4, 0.2],
        }
    )
    limits = ([0.1, 0.7], [1.0, 1.6], [1.0, 0.0])
    upper, lower, optima, dropout = maps.diversity_accuracy(frame, limits, "T").data
    assert list(upper.y) == [1.0, 1.6]
    assert list(lower.y) == [1.0, 0.0]
    assert (list(optima.x), list(optima.y)) == ([0.7], [0.9])
    assert list(dropout.y) == [0.4, 0.2]
    assert "dropout up to 0.4, accuracy 0.5 to 0.6" in alt(
        maps.diversity_accuracy(frame, limits, "T")
    )


@pytest.mark.parametrize("blocks", [["a", "b"], ["a", "b", "c"]])
def test_each_block_has_its_label_in_its_middle(blocks):
    size = 4
    values = np.arange((size * len(blocks)) ** 2, dtype=float)
    values = values.reshape(size * len(blocks), -1)
    figure = maps.heatmaps({"m": values}, blocks, "T", "epoch")
    middles = [size * i + 1.5 for i in range(len(blocks))]
    assert list(figure.layout.xaxis.tickvals) == middles


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_heatmap_has_its_place_beside_its_own_colour_bar(count):
    names = [f"m{i}" for i in range(count)]
    values = np.arange(16.0).reshape(4, 4)
    figure = maps.heatmaps(dict.fromkeys(names, values), ["a", "b"], "T", "epoch")
    end = 0.0
    for i, (name, heatmap) in enumerate(zip(names, figure.data, strict=True)):
        left, right = figure.layout[f"xaxis{i + 1 if i else ''}"].domain
        heading = figure.layout.annotations[i]
        assert end < left < right < heatmap.colorbar.x < 1
        assert heading.text == name
        assert heading.x == pytest.approx((left + right) / 2)
        end = heatmap.colorbar.x
    assert end > 0.9
    assert len({round(np.ptp(a.domain), 9) for a in figure.select_xaxes()}) == 1


@pytest.mark.parametrize(
    ("sizes", "blocks", "message"),
    [
        ([], "ab", "one to three matrices fit side by side, got 0; draw several"),
        ([(4, 4)] * 4, "ab", "side by side, got 4"),
        (
            [(4, 4), (6, 6)],
            "ab",
            r"of one size, got \[\(4, 4\), \(6, 6\)\]; draw other",
        ),
        ([(4, 6)], "ab", r"must be square and of one size, got \[\(4, 6\)\]"),
        ([(4,)], "ab", r"must be square"),
        ([()], "ab", r"must be square"),
        ([(5, 5)], "ab", "5 rows cannot be 2 blocks: write two or more, all of as man"),
        ([(4, 4)], "a", "4 rows cannot be 1 blocks"),
        ([(4, 4)], "", "4 rows cannot be 0 blocks"),
        ([(4, 4)], "abcd", "4 rows cannot be 4 blocks: .*, two at least"),
    ],
)
def test_heatmaps_that_cannot_be_are_refused(sizes, blocks, message):
    matrices = {f"m{i}": np.zeros(size) for i, size in enumerate(sizes)}
    with pytest.raises(ValueError, match=message):
        maps.heatmaps(matrices, list(blocks), "T", "epoch")
