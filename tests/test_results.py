"""Runs as folders and tables; intervals and paired tests against hand values."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sbtutor import config, files, results
from sbtutor.config import Experiment, TrainConfig

BASE = config.preset("smoke")


def vary(**settings) -> Experiment:
    return dataclasses.replace(BASE, train=dataclasses.replace(BASE.train, **settings))


def finished(folder, experiment, **metrics):
    files.write_json(folder / "config.json", experiment.to_dict())
    files.write_json(folder / "provenance.json", results.provenance("cpu", 12.34))
    files.write_json(folder / "metrics.json", metrics)


def test_a_run_folder_is_named_by_method_seed_and_all_settings():
    name = results.run_folder("runs", vary(method="sam", seed=7)).name
    assert name.startswith("sam-seed7-")
    others = [vary(rho=0.2), vary(lr=0.2), vary(seed=1), vary(split="code"), BASE]
    names = {results.run_folder("runs", e) for e in others}
    assert len(names) == len(others)
    assert results.run_folder("runs", vary()) == results.run_folder("runs", BASE)


def test_a_run_folder_does_not_depend_on_how_milestones_were_written():
    a, b = vary(milestones=(3,)), vary(milestones=[3])
    assert results.run_folder("r", a) == results.run_folder("r", b)


def test_a_folder_is_complete_when_it_has_metrics(tmp_path):
    assert not results.is_complete(tmp_path)
    finished(tmp_path, BASE, accuracy=0.5)
    assert results.is_complete(tmp_path)


def test_table_has_one_row_a_finished_run(tmp_path):
    nan = float("nan")
    finished(tmp_path / "a", vary(method="sam", rho=0.3), accuracy=0.5, der=nan)
    finished(tmp_path / "deep" / "b", vary(seed=4), accuracy=0.75, der=1.5)
    files.write_json(tmp_path / "unfinished" / "config.json", BASE.to_dict())
    table = results.table(tmp_path).set_index("run")
    assert table.index.tolist() == ["a", "b"]
    assert table["method"].tolist() == ["sam", "sgd"]
    assert table["rho"].tolist() == [0.3, BASE.train.rho]
    assert table["seed"].tolist() == [0, 4]
    assert table["data_seed"].tolist() == [0, 0]
    assert table["data"].tolist() == ["digits"] * 2
    assert table["model"].tolist() == ["small_cnn"] * 2
    assert table["accuracy"].tolist() == [0.5, 0.75]
    assert math.isnan(table["der"]["a"])
    assert table["seconds"].tolist() == [12.3] * 2
    assert table["device"].tolist() == ["cpu"] * 2
    assert {"torch", "torchvision", "python", "date"} <= set(table.columns)


def test_every_setting_is_a_column_of_the_table(tmp_path):
    finished(tmp_path, BASE)
    columns = set(results.table(tmp_path).columns)
    assert {f.name for f in dataclasses.fields(TrainConfig)} <= columns


def test_the_table_of_an_empty_folder_is_empty(tmp_path):
    assert results.table(tmp_path).empty


def test_load_inverts_save(tmp_path):
    experiment = vary(milestones=(1, 3), method="sharpbalance")
    finished(tmp_path, experiment, der=float("nan"), nll=0.1 + 0.2)
    assert results.load_experiment(tmp_path) == experiment
    metrics = results.load_metrics(tmp_path)
    assert math.isnan(metrics["der"])
    assert metrics["nll"] == 0.1 + 0.2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (vary(rho=0.3), r"train\.rho=0.1, this one has 0.3"),
        (vary(milestones=(2,)), r"train\.milestones=\[3\], this one has \[2\]"),
        (
            dataclasses.replace(BASE, data=config.DataConfig(name="fashion-mini")),
            r"data\.name='digits', this one has 'fashion-mini'",
        ),
        (
            dataclasses.replace(BASE, model=config.ModelConfig(name="mlp", width=8)),
            r"model\.name='small_cnn', this one has 'mlp'",
        ),
    ],
)
def test_another_experiment_in_a_folder_is_refused_naming_the_setting(
    tmp_path, other, message
):
    results.check_same_experiment(tmp_path, other)  # nothing there yet
    finished(tmp_path, BASE)
    results.check_same_experiment(tmp_path, vary())
    with pytest.raises(ValueError, match=f"{message}; choose another folder or delete"):
        results.check_same_experiment(tmp_path, other)


def test_interval_by_hand():
    """1, 2, 3: mean 2, s = 1, half width t_{2, .975} / sqrt 3 = 4.30265 / 1.73205."""
    mean, low, high, n = results.interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)
    assert (mean, low, high, n) == pytest.approx((2, 2 - half, 2 + half, 3))


def test_interval_is_scipys():
    x = np.random.default_rng(0).normal(size=9)
    theirs = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert results.interval(x)[1:3] == pytest.approx((theirs.low, theirs.high))


def test_interval_covers_the_truth_95_times_in_100():
    """Coverage over 2,000 draws of n = 4, within 4 standard errors."""
    draws = np.random.default_rng(0).normal(size=(2000, 4))
    hits = sum(i.low < 0 < i.high for i in map(results.interval, draws))
    assert abs(hits / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_one_value_has_a_mean_and_no_interval():
    one = results.interval([0.5])
    assert (one.mean, one.n) == (0.5, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert str(one) == "0.5 (n = 1)"


def test_an_interval_prints_its_half_width():
    assert str(results.interval([1.0, 2.0, 3.0])) == "2 ± 2.5 (n = 3)"
    assert str(results.Interval(0.12345, 0.11995, 0.12695, 8)) == (
        "0.1235 ± 0.0035 (n = 8)"
    )


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="at least one value, got none"):
        results.interval([])


def test_paired_by_hand():
    """Differences 1, 2, 3: t = 2 / (1 / sqrt 3) = 3.4641, p = 0.0742 at 2 df."""
    difference, t, p = results.paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert difference == pytest.approx(results.interval([1.0, 2.0, 3.0]))
    assert t == pytest.approx(2 * math.sqrt(3))
    assert p == pytest.approx(0.07417990)


def test_paired_is_blind_to_what_a_seed_does_to_both():
    rng = np.random.default_rng(0)
    ours, theirs, seed = rng.normal(size=(3, 6))
    a, b = results.paired(ours, theirs), results.paired(ours + seed, theirs + seed)
    assert a.t == pytest.approx(b.t)
    assert tuple(a.difference) == pytest.approx(tuple(b.difference))


@pytest.mark.parametrize(
    ("ours", "theirs", "got"),
    [([1.0, 2.0], [1.0, 2.0, 3.0], "2 and 3"), ([1.0], [2.0], "1 and 1")],
)
def test_a_paired_test_needs_pairs(ours, theirs, got):
    with pytest.raises(ValueError, match=f"at least two of them; got {got} values"):
        results.paired(ours, theirs)


FRAME = pd.DataFrame(
    {
        "label": ["SAM", "SAM", "SAM", "SGD", "SGD", "SGD", "SGD"],
        "seed": [0, 3, 6, 6, 3, 0, 9],
        "accuracy": [2.0, 4.0, 6.0, 3.0, 2.0, 1.0, 50.0],
    }
)


def test_by_label_gives_each_labels_interval_in_order_of_appearance():
    table = results.by_label(FRAME, "accuracy")
    assert table["method"].tolist() == ["SAM", "SGD"]
    mean, low, high, _ = results.interval([2.0, 4.0, 6.0])
    assert table.loc[0, ["mean", "low", "high"]].tolist() == [mean, low, high]
    assert table["values"][1] == [3.0, 2.0, 1.0, 50.0]


def test_against_pairs_by_seed_not_by_row_and_drops_what_has_no_partner():
    row = results.against(FRAME, "SAM", "SGD", ["accuracy"]).loc["accuracy"]
    (mean, low, high, n), t, p = results.paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert row[["difference", "low", "high", "t", "p", "n"]].tolist() == pytest.approx(
        [mean, low, high, t, p, n]
    )


def test_committed_reads_the_table_and_tells_its_story(tmp_path, capsys):
    FRAME.to_csv(tmp_path / "sweep.csv", index=False)
    story = {
        "what": "rho sweep",
        "date": "2026-01-02",
        "device": "cpu",
        "torch": "2.15.0",
        "seconds": 600,
        "command": "python recompute.py sweep",
    }
    (tmp_path / "sweep.json").write_text(json.dumps(story))
    pd.testing.assert_frame_equal(results.committed(tmp_path / "sweep"), FRAME)
    said = capsys.readouterr().out
    for part in ("rho sweep", "2026-01-02", "10 minutes of runs", story["command"]):
        assert part in said


def test_a_result_that_was_never_committed_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"no committed result .*nothing.*nothing\.csv"
    ):
        results.committed(tmp_path / "nothing")


LINE = pd.DataFrame(
    {
        "label": ["flat", "sharp", "ours"] * 2,
        "seed": [0, 0, 0, 1, 1, 1],
        "x": [1.0, 3.0, 2.5, 2.0, 4.0, 1.0],
        "y": [10.0, 20.0, 20.0, 0.0, 8.0, 5.0],
    }
)


def test_above_line_by_hand():
    """Seed 0: the line is 17.5 at 2.5. Seed 1: 1 is left of it, where it stays 0."""
    found = results.above_line(LINE, "ours", ["flat", "sharp"], "x", "y")
    assert found.to_dict() == pytest.approx({0: 2.5, 1: 5.0})


def test_the_lines_own_points_lie_on_it():
    for name in ("flat", "sharp"):
        found = results.above_line(LINE, name, ["flat", "sharp"], "x", "y")
        assert found.tolist() == [0, 0]


def test_above_line_leaves_out_seeds_without_partners():
    alone = pd.DataFrame({"label": ["ours"], "seed": [9], "x": [1.0], "y": [2.0]})
    found = results.above_line(
        pd.concat([LINE, alone]), "ours", ["flat", "sharp"], "x", "y"
    )
    assert found.index.tolist() == [0, 1]


def test_a_line_in_the_wrong_order_is_refused():
    with pytest.raises(
        ValueError, match="x does not grow along sharp, flat for seed 0"
    ):
        results.above_line(LINE, "ours", ["sharp", "flat"], "x", "y")


@pytest.mark.parametrize(
    ("values", "sign", "expected"),
    [
        ([1.0, 1.1, 1.2], 1, "shown"),
        ([1.0, 1.1, 1.2], -1, "contradicted"),
        ([-1.0, -1.1, -1.2], -1, "shown"),
        ([-1.0, -1.1, -1.2], 1, "contradicted"),
        ([-1.0, 1.1, 1.2], 1, "not shown at this size"),
        ([-1.0, 1.1, 1.2], -1, "not shown at this size"),
        ([1.0], 1, "not shown at this size"),  # one value has no interval
    ],
)
def test_a_verdict_asks_for_the_whole_interval(values, sign, expected):
    assert results.verdict(results.interval(values), sign) == expected


def test_a_line_needs_two_methods_that_are_in_the_table():
    with pytest.raises(ValueError, match=r"at least two methods.*got \['flat'\]"):
        results.above_line(LINE, "ours", ["flat"], "x", "y")
    with pytest.raises(ValueError, match=r"\['steep'\] are not in it"):
        results.above_line(LINE, "ours", ["flat", "steep"], "x", "y")


def test_a_line_of_equal_x_is_refused():
    with pytest.raises(ValueError, match="does not grow along flat, flat"):
        results.above_line(LINE, "ours", ["flat", "flat"], "x", "y")
