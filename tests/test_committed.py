"""The small results that lessons open with: whole, and repeatable."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from sbtutor import files, results, train

FOLDER = Path(__file__).parents[1] / "notebooks" / "results"
NAMES = ("settings", "fashion", "size", "cifar10")


@pytest.fixture(scope="module")
def recompute():
    spec = importlib.util.spec_from_file_location("recompute", FOLDER / "recompute.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_says_how_it_was_made(name, capsys):
    frame = results.committed(FOLDER / name)
    assert f"recompute.py {name}" in capsys.readouterr().out
    story = files.read_json(FOLDER / f"{name}.json")
    assert {"what", "seconds", "device", "torch", "date"} <= set(story)
    assert sorted(set(frame["seed"])) == story["seeds"]
    always = frame.drop(columns=["limit", "size"], errors="ignore")
    assert not always.isna().any(axis=None)


def test_each_method_has_the_same_eight_fresh_seeds(recompute):
    for name in ("fashion", "cifar10"):
        frame = results.committed(FOLDER / name)
        seeds = frame.groupby("label")["seed"].apply(sorted)
        assert (seeds.map(len) == 8).all()
        assert len({tuple(s) for s in seeds}) == 1
        assert not set(seeds.iloc[0]) & set(recompute.CHOOSING_SEEDS)


def test_settings_of_class_are_the_best_on_validation_data(recompute):
    frame = results.committed(FOLDER / "settings")
    names = ["epochs", "crop", "flip", "milestones", "warmup_epochs"]
    sam = frame[frame["label"] == "SAM 0.1"]
    best = sam.groupby(names)["val_accuracy"].mean().idxmax()
    chosen = [getattr(recompute.FASHION.train, name) for name in names]
    assert [str(value) for value in best] == [str(value) for value in chosen]


def test_results_are_of_the_settings_that_stand_in_the_code(recompute):
    for name, base in (("fashion", recompute.FASHION), ("cifar10", recompute.CIFAR10)):
        frame = results.committed(FOLDER / name)
        for setting in ("epochs", "batch_size", "lr", "warmup_epochs", "crop"):
            assert set(frame[setting]) == {getattr(base.train, setting)}


def test_the_readme_shows_what_was_measured():
    command = [sys.executable, str(FOLDER / "summary.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    readme = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8").splitlines()
    assert set(printed.splitlines()) <= set(readme)


def test_no_result_of_that_name(tmp_path):
    with pytest.raises(ValueError, match="no committed result"):
        results.committed(tmp_path / "nothing")


@pytest.mark.full
@pytest.mark.parametrize("label", ["DE", "SAM 0.1", "SharpBalance 0.1", "random 0.1"])
def test_a_run_of_fashion_comes_out_again(recompute, label, tmp_path):
    """Within 4 standard deviations over seeds: another machine rounds otherwise."""
    frame = results.committed(FOLDER / "fashion")
    made = recompute.groups(
        recompute.FASHION, recompute.FASHION_SEEDS, recompute.FASHION_SPLITS
    )
    found = [
        experiment for group in made for name, experiment in group if name == label
    ]
    again = train.fit(found[0], tmp_path / "run").metrics
    many = frame[frame["label"] == label]
    for name in ("test_accuracy", "test_der", "hessian_trace", "shift_accuracy"):
        assert abs(again[name] - many[name].mean()) < 4 * many[name].std()
