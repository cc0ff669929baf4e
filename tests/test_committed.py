"""The small results that lessons open with: whole, and repeatable."""

import importlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sbtutor import (
    close_up,
    config,
    data,
    files,
    optima_plane,
    results,
    subspace,
    train,
)

FOLDER = Path(__file__).parents[1] / "notebooks" / "results"
NAMES = ("settings", "fashion", "size", "cifar10", "sweep", "ablation", "explorer")
NAMES += ("planes",)


LANDSCAPE = ("landscape", "landscape_plane", "landscape_shift")

sys.path.append(str(FOLDER))  # its scripts import one another


@pytest.fixture(scope="module")
def recompute():
    return load("recompute")


@pytest.fixture(scope="module")
def claims():
    return load("claims")


@pytest.fixture(scope="module")
def fort():
    return load("fort")


def load(name):
    """A script of the folder as a module."""
    return importlib.import_module(name)


@pytest.mark.parametrize("name", NAMES)
def test_says_how_it_was_made(name, capsys):
    frame = results.committed(FOLDER / name)
    assert f"recompute.py {name}" in capsys.readouterr().out
    story = files.read_json(FOLDER / f"{name}.json")
    assert {"what", "seconds", "device", "torch", "date"} <= set(story)
    assert sorted(set(frame["seed"])) == story["seeds"]
    always = frame.drop(columns=["limit", "size"], errors="ignore")
    assert not always.isna().any(axis=None)


@pytest.mark.parametrize("name", LANDSCAPE)
def test_says_how_the_landscape_was_made(name, fort, capsys):
    frame = results.committed(FOLDER / name)
    assert "recompute.py landscape\n" in capsys.readouterr().out
    seeds = {data: sorted(set(part["seed"])) for data, part in frame.groupby("data")}
    assert seeds == {data: list(seeds) for data, seeds in fort.SEEDS.items()}


def test_the_landscapes_rows_are_whole(fort):
    """One row a run; every method at every place; NaN only where it is defined so."""
    runs, plane, shift = (results.committed(FOLDER / name) for name in LANDSCAPE)
    count = sum(map(len, fort.SEEDS.values()))
    assert len(runs) == count
    assert not runs.isna().any(axis=None)
    methods = ["optima", "average", "trajectory", *subspace.SAMPLERS]
    per_plane = plane.groupby(["data", "seed", "reference", "method"]).size().unstack()
    assert len(per_plane) == 4 * count
    assert (per_plane.pop("optima") == 3).all()
    assert set(per_plane) == set(subspace.SAMPLERS)
    assert (per_plane == len(optima_plane.WALK)).all(axis=None)
    wild = shift["method"].str.startswith("wild")
    assert set(shift["method"][~wild]) == set(methods)
    assert wild.sum() == count * 7 * len(subspace.SAMPLERS)
    assert (~wild).sum() == count * 7 * 4 * len(methods)
    assert not shift.duplicated(["data", "seed", "method", "place", "optima"]).any()
    told = shift[~wild & (shift["place"] != "digits")]
    assert not told[["accuracy", "brier"]].isna().any(axis=None)
    assert not shift.loc[shift["optima"] == 1, "js"].isna().any()


def test_the_explorers_rows_are_whole():
    """Each method, seed and number of members once; a run's number is its place."""
    explorer, frame = load("explorer"), results.committed(FOLDER / "explorer")
    runs = [e for group in explorer.experiments() for e in group]
    expected = [
        (number, explorer.label(run), run.train.seed, members)
        for number, run in enumerate(runs)
        for members in (2, 3, 4)
    ]
    columns = ["number", "label", "seed", "members"]
    assert [*frame[columns].itertuples(index=False, name=None)] == expected


def test_close_ups_are_of_the_test_images():
    kept = close_up.load(FOLDER / "explorer.npz")
    test = data.load(config.preset("class").data).test
    assert kept.labels.tolist() == test.labels[kept.places].tolist()
    assert kept.labels.bincount().tolist() == [50] * 10
    assert len(set(kept.places.tolist())) == 500
    assert kept.probs.shape == (42, 4, 500, 10)


def test_close_ups_agree_with_the_explorers_table():
    """Error and DER of 500 of the 4,000 images lie within 4 standard errors."""
    kept = close_up.load(FOLDER / "explorer.npz")
    share = 1 - 500 / 4000  # of the variance is left, as images are not drawn twice
    for row in results.committed(FOLDER / "explorer").to_dict("records"):
        run = close_up.of_run(kept, row["number"], row["members"])
        differ = close_up.vote_disagreement(run).numpy()
        wrong = (close_up.votes(run) != run.labels).float().mean(0).numpy()
        error, der = 1 - row["test_member_accuracy"], row["test_der"]
        beyond = differ - der * wrong  # whose mean is 0 if the ratio is right
        for values, mean in ((wrong, error), (beyond, 0)):
            noise = (share / 500) ** 0.5 * np.std(values)
            assert abs(values.mean() - mean) < 4 * noise, row["label"]


def test_images_that_members_get_wrong_are_sharper():
    """The gradient of a loss is long where the loss is high."""
    kept = close_up.load(FOLDER / "explorer.npz")
    for number in range(len(kept.probs)):
        run = close_up.of_run(kept, number)
        right = close_up.votes(run) == run.labels
        sharp = run.log10_fisher
        assert sharp.isfinite().all()
        assert sharp[~right].mean() > sharp[right].mean() + 1


def test_gaps_prices_and_places_are_those_of_the_planes():
    """A reference's accuracy stands among the other optima of the next plane."""
    runs, plane, _ = (results.committed(FOLDER / name) for name in LANDSCAPE)
    runs = runs.set_index(["data", "seed"])
    for key, part in plane.groupby(["data", "seed"]):
        rows = {m: p.to_dict("records") for m, p in part.groupby("reference")}
        others = {
            m: [r["accuracy"] for r in p if r["method"] == "optima"]
            for m, p in rows.items()
        }
        best = [others[1][0], *others[0]]
        found = [optima_plane.plane_row(rows[m], best[m], 10) for m in range(4)]
        for name in found[0]:
            mean = sum(row[name] for row in found) / 4
            assert runs.loc[key, name] == pytest.approx(mean, abs=2e-4), name


def test_single_optima_in_the_shift_table_are_the_runs_own():
    runs, _, shift = (results.committed(FOLDER / name) for name in LANDSCAPE)
    one = shift[(shift["method"] == "optima") & (shift["optima"] == 1)]
    clean = one[one["place"] == "0"].set_index(["data", "seed"])["accuracy"]
    all_four = runs.set_index(["data", "seed"])["accuracy"]
    assert (clean - all_four.loc[clean.index]).abs().max() < 1e-4


def test_fort_et_als_claims_are_those_of_the_tables():
    frame = results.committed(FOLDER / "claims_fort")
    assert set(frame["claim"]) == set(range(1, 9))
    assert set(frame["data"]) == {"fashion-mini", "cifar10"}
    again = load("claims_fort").answers()
    pd.testing.assert_frame_equal(frame, again, rtol=1e-3, check_exact=False)


WENZEL = {
    "hyper": ("network", "method", "size"),
    "hyper_kinds": ("network", "method"),
    "hyper_shift": ("network", "method", "severity"),
    "hyper_ranges": ("network", "tau", "member", "name"),
}


@pytest.mark.parametrize("name", WENZEL)
def test_the_hyperparameter_ensembles_tables_are_whole(name, capsys):
    """Each kind of row once for each seed; NaN only where nothing was selected."""
    frame = results.committed(FOLDER / name)
    assert "recompute.py hyper\n" in capsys.readouterr().out
    seeds = {n: list(seeds) for n, seeds in load("wenzel").SEEDS.items()}
    for keys, part in frame.groupby(list(WENZEL[name])):
        assert sorted(part["seed"]) == seeds[keys[0]]
    assert not frame.drop(columns="largest_rise", errors="ignore").isna().any(axis=None)


def test_trainings_are_those_of_the_accounts():
    """kappa + K - 1 for deep ensembles; at the same cost as many as for hyper-deep."""
    frame = results.committed(FOLDER / "hyper")
    by = frame.set_index(["network", "seed", "size", "method"])["trainings"].unstack()
    size = by.index.get_level_values("size")
    kappa = load("wenzel").KAPPA
    assert (by["deep"] == kappa + size - 1).all()
    assert (by["fixed-init"] == kappa).all()
    assert (by["hyper-deep"] <= kappa + size * (size - 1)).all()
    for name in ("deep", "fixed-init"):
        assert (by[f"{name}, same cost"] == by["hyper-deep"]).all()


def test_wenzel_et_als_claims_are_those_of_the_tables():
    frame = results.committed(FOLDER / "claims_wenzel")
    assert set(frame["claim"]) == set(range(1, 10))
    assert set(frame["data"]) == {"mlp", "lenet"}
    again = load("claims_wenzel").answers()
    pd.testing.assert_frame_equal(frame, again, rtol=1e-3, check_exact=False)


def test_claims_of_sadrtdinov_are_those_of_the_tables():
    frame = results.committed(FOLDER / "claims_sadrtdinov")
    assert set(frame["claim"]) == set(range(1, 10))
    assert (frame.groupby(["claim", "data"])["n"].max() >= 3).all()
    again = load("claims_sadrtdinov").answers()
    pd.testing.assert_frame_equal(frame, again, rtol=1e-3, check_exact=False)


def test_the_grid_of_cycles_is_complete_and_its_best_cells_are_the_tuned_ones():
    study = load("sadrtdinov")
    rows, grid, members = (
        results.committed(FOLDER / f"transfer{part}")
        for part in ("", "_grid", "_members")
    )
    cells = len(study.LR_FACTORS) * len(study.EPOCH_FACTORS)
    for name, seeds in study.SEEDS.items():
        own = grid[grid["data"] == name]
        assert sorted(set(own["seed"])) == list(seeds)
        assert (own.groupby(["seed", "method"]).size() == cells).all()
        each = members[members["data"] == name]
        assert len(each) == len(own) * (study.SIZE - 1)
    keys = ["data", "seed", "method"]
    best = grid.groupby(keys)["val_nll"].min()
    last = rows[rows["size"] == study.SIZE].set_index(keys)["val_nll"]
    assert last[best.index].to_numpy() == pytest.approx(best.to_numpy())


def test_each_method_has_the_same_eight_fresh_seeds(recompute):
    for name in ("fashion", "cifar10"):
        frame = results.committed(FOLDER / name)
        seeds = frame.groupby("label")["seed"].apply(sorted)
        assert (seeds.map(len) == 8).all()
        assert len({tuple(s) for s in seeds}) == 1
        assert not set(seeds.iloc[0]) & set(recompute.CHOOSING_SEEDS)


def test_a_sweep_has_eight_seeds_for_each_width_and_radius(recompute):
    frame = results.committed(FOLDER / "sweep")
    seeds = frame.groupby(["width", "label"])["seed"].apply(sorted)
    assert len(seeds) == len(recompute.SWEEP_WIDTHS) * 4
    assert all(each == list(recompute.SWEEP_SEEDS) for each in seeds)


def test_the_ablations_seeds_were_used_for_nothing_before(recompute):
    used = {*recompute.CIFAR10_SEEDS, *recompute.CHOOSING_SEEDS}
    frame = results.committed(FOLDER / "ablation")
    assert sorted(set(frame["seed"])) == list(recompute.ABLATION_SEEDS)
    assert not set(frame["seed"]) & used


def test_controls_use_sam_on_as_many_samples():
    frame = results.committed(FOLDER / "ablation")
    share = frame.pivot(index="seed", columns="label", values="sam_share")
    for control in ("flattest 0.2", "random 0.2", "shared 0.2"):
        gap = (share[control] - share["SharpBalance 0.2"]).abs()
        assert gap.max() < 0.001


def test_severities_agree_with_the_ablations_own_row():
    """Mean over severities of the full ensembles = the column shift_accuracy."""
    frame = results.committed(FOLDER / "ablation")
    parts = results.committed(FOLDER / "ablation_severity")
    kept = parts[(parts["severity"] > 0) & (parts["size"] == 3)]
    mean = kept.groupby(["label", "seed"])["accuracy"].mean()
    whole = frame.set_index(["label", "seed"])["shift_accuracy"]
    assert (mean - whole.loc[mean.index]).abs().max() < 1e-4


def test_claims_are_those_of_the_tables(claims):
    """All rows but the simulation's are computed again, to the digits written."""
    frame = results.committed(FOLDER / "claims")
    assert set(frame["claim"]) == set(range(1, 12))
    written = frame[frame["claim"] != 10].reset_index(drop=True)
    again = claims.answers(simulate=False)
    pd.testing.assert_frame_equal(written, again, rtol=1e-3, check_exact=False)


def test_a_simulated_claim_comes_out_again(claims):
    """Seeded: the rows of the linear model's first radius."""
    frame = results.committed(FOLDER / "claims")
    there = frame.set_index(["data", "quantity"])
    for row in itertools.islice(claims.of_theory(), 5):
        found = results.interval(row.values.numpy())
        wrote = there.loc[(row.data, row.quantity)]
        assert wrote["estimate"] == pytest.approx(found.mean, rel=1e-3)
        assert wrote["verdict"] == load("questions").verdict(found, row.expected)


@pytest.mark.parametrize(
    ("values", "expected", "said"),
    [
        ([0.1, 0.11, 0.12], "> 0.05", "shown"),
        ([0.1, 0.11, 0.12], "> 0.11", "not shown at this size"),
        ([0.1, 0.11, 0.12], "> 0.2", "contradicted"),
        ([-3.1, -3.0, -2.9], "> -2", "contradicted"),
        ([-1.1, -1.0, -0.9], "> -2", "shown"),
        ([0.9, 1.0, 1.2], "= 1", "in accord"),
        ([1.1, 1.11, 1.12], "= 1", "contradicted"),
        ([1.1, 1.11, 1.12], "<= 1", "contradicted"),
        ([0.1, 0.11, 0.12], "<= 1", "in accord"),
        ([1.1, 1.11, 1.12], ">= 1", "in accord"),
        ([0.1, 0.11, 0.12], ">= 1", "contradicted"),
        ([0.9, 1.0, 1.2], ">= 1", "in accord"),
        ([0.1, 0.11, 0.12], "> 0", "shown"),
        ([0.1, 0.11, 0.12], "< 0", "contradicted"),
        ([0.1], "= 0", "too few seeds"),
        ([-0.1, -0.2], "holds", "by construction"),
    ],
)
def test_verdicts(values, expected, said):
    assert load("questions").verdict(results.interval(values), expected) == said


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
