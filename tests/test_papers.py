"""The papers' numbers and claims beside ours: read right, or said to be missing."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sbtutor import beside, claims, cost, counted, files, jobs, papers, results, sweep

FOLDER = Path(__file__).parents[1] / "notebooks"
RESULTS, SWEEPS = FOLDER / "results", FOLDER / "sweeps"
NUMBERS = papers.numbers(RESULTS)

YAML = """
what: a small one
preset: smoke
grid:
  - {method: [sgd], seed: [1, 2, 3]}
  - {method: [sam], rho: [0.1, 0.2], seed: [1, 2, 3]}
"""
HEAD = "paper,place,data,model,method,quantity,unit,value,error,source,sweep,share,"
HEAD += "where,column,statistic,note\n"
ROWS = """\
A,Tab 1,X,M,SGD,accuracy,%,90.0,0.50,memory,small,,method=sgd,test_accuracy,mean,
A,Tab 1,X,M,SAM,least,,0.3,,memory,small,,method=sam,test_der,least,
A,Tab 1,X,M,SAM,greatest,,0.3,,memory,small,,method=sam,test_der,greatest,
A,Tab 1,X,M,SAM,best rho,,0.3,,memory,small,,method=sam,rho,best,by eye
A,Tab 1,Y,M,SAM,accuracy,%,80,,memory,small,0.5,method=sam,,,half of it
A,Tab 1,X,M,SGD,NLL,,80,,memory,,,,,,no device
A,Tab 1,X,M,SGD,shifted,%,50,,memory,small,,method=sgd,corrupted_accuracy,mean,
"""


@pytest.fixture
def place(tmp_path):
    """A sweep of nine runs, and a paper with seven numbers."""
    (tmp_path / "small.yaml").write_text(YAML)
    (tmp_path / "small-mini.yaml").write_text(YAML)
    (tmp_path / "papers.csv").write_text(HEAD + ROWS)
    return tmp_path


def collect(place, name, **columns):
    """The sweep's table with columns made up, as `batch collect` writes it."""
    wanted = sweep.read(place / f"{name}.yaml")
    rows = [
        {"run": job.name, "preset": job.preset} | results.settings(job.experiment)
        for job in wanted.jobs
    ]
    columns = {"val_nll": 1.0} | columns
    pd.DataFrame(rows).assign(**columns).to_csv(place / f"{name}.csv", index=False)
    story = {"what": "made up", "command": "python -m x", "seconds": 1.0}
    files.write_json(place / f"{name}.json", story | results.provenance("cpu", 1.0))


def test_what_is_not_run_says_so_and_what_it_costs(place):
    found = papers.table(place, place, tflops=2.0)
    assert found["ours"].isna().all()
    assert found["reduced"].isna().all()
    flops = papers.runs(place / "small.yaml")
    of = flops.groupby("method")["flops"].sum() / 2e12 / 3600
    share = [of["sgd"], of["sam"], of["sam"], of["sam"], of["sam"] / 2, np.nan]
    assert found["hours"].tolist()[:6] == pytest.approx(share, nan_ok=True)
    assert of["sam"] > 2 * of["sgd"], "twice the runs, and more gradients"
    told = beside.shown(found, ("data", "quantity"), None)
    assert "ours, reduced" not in told
    assert told.loc[("X", "accuracy"), "paper"] == "90.0 ± 0.50 %"
    assert told.loc[("X", "best rho"), "paper"] == "0.3 [1]"
    assert told.loc[("Y", "accuracy"), "paper"] == "80 % [2]"
    whole = beside.spoken(found["hours"][0])
    assert told.loc[("X", "accuracy"), "ours"] == f"not run yet: {whole}"
    assert told["sweep"].tolist() == [*["small"] * 4, "0.5 of small", "", "small"]
    assert told.loc[("X", "NLL"), "ours"] == "not comparable: no device"


def test_ours_is_mean_and_interval_over_the_seeds_that_are_asked_for(place):
    accuracy = [0.5, 0.6, 0.7, *[0.9] * 6]  # the first three are SGD's
    der = [0.9, 0.9, 0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]  # then SAM's, by rho
    nll = [9.0, 9.0, 9.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.1]
    columns = {"test_accuracy": accuracy, "test_der": der, "val_nll": nll}
    collect(place, "small", **columns)
    found = papers.table(place, place).set_index(["data", "quantity"])
    ours = found["ours"]
    expected = results.interval([50.0, 60.0, 70.0])
    assert ours["X", "accuracy"] == pytest.approx(expected)
    assert ours["X", "least"] == pytest.approx(results.interval(der[3:6]))
    assert ours["X", "greatest"] == pytest.approx(results.interval(der[6:]))
    assert ours["X", "best rho"].mean == pytest.approx(0.2)
    assert ours["Y", "accuracy"] is None, "a share of a sweep is no result"
    assert ours["X", "shifted"] is None
    made = found["made"]["X", "accuracy"]
    assert "preset smoke, 400 images of digits, small_cnn, 4 epochs" in made
    assert "seeds 1, 2, 3; cpu, " in made
    assert made.endswith("; python -m x")
    told = beside.shown(found.reset_index(), ("data", "quantity"), None)
    assert told.loc[("X", "accuracy"), "ours"] == "60 ± 25 % (n = 3)"


def test_a_small_twin_stands_apart_and_brings_its_own_corruptions(place):
    collect(place, "small-mini", test_accuracy=0.5, shift_accuracy=0.25)
    found = papers.table(place, place)
    assert found["ours"].isna().all()
    told = beside.shown(found, ("data", "quantity"), None)["ours, reduced"]
    assert told["X", "accuracy"] == "50 ± 0 % (n = 3)"
    assert told["X", "shifted"] == "25 ± 0 % (n = 3)"
    assert told["Y", "accuracy"] == told["X", "least"] == ""


def test_mean_and_half_width_have_the_same_decimals(place):
    values = [0.5, 0.502, 0.504] * 3
    collect(place, "small-mini", test_accuracy=values)
    words = beside.shown(papers.table(place, place), ("data", "quantity"), None)
    told = words[papers.REDUCED]["X", "accuracy"]
    assert told == "50.20 ± 0.50 % (n = 3)"  # t = 4.30, s / sqrt(3) = 0.115
    assert "50.20&nbsp;±&nbsp;0.50&nbsp;% (n&nbsp;=&nbsp;3)" in beside.html(words)


def test_columns_that_are_alike_in_each_row_become_one(place):
    collect(place, "small", test_accuracy=0.5)
    kept = papers.table(place, place).iloc[[0, 6]]
    told = beside.shown(kept)
    assert list(told) == [
        *("accuracy, paper", "shifted, paper", "known from"),
        *("accuracy, ours", "shifted, ours", "sweep"),
    ]
    assert told.loc[("X", "SGD"), "accuracy, ours"] == "50 ± 0 % (n = 3)"


def test_a_table_tells_once_what_is_alike(place):
    found = papers.table(place, place)
    words = beside.shown(found, ("data", "quantity"), None)
    told = beside.html(words, beside.notes(found))
    assert told.endswith("</table><p>[1] by eye</p><p>[2] half of it</p>")
    assert "<caption>known from: memory</caption>" in told
    assert '<th scope="col">sweep</th>' in told
    assert told.count("<tr>") == 1 + len(found)
    assert '<th scope="row" rowspan="4">X</th><td>accuracy</td>' in told
    assert '<th scope="row">Y</th>' in told
    one = pd.DataFrame({"a": ["1 < 2"]}, index=pd.Index(["x & y"], name="b"))
    assert '<th scope="row">x &amp; y</th><td>1 &lt; 2</td>' in beside.html(one)
    assert "9&nbsp;±&nbsp;1&nbsp;%, x" in beside.html(
        one.replace("1 < 2", "9 ± 1 %, x")
    )


def test_rows_are_chosen_by_settings_that_exist(place):
    collect(place, "small", test_accuracy=0.5)
    frame = pd.read_csv(place / "small.csv")
    assert len(papers.fitting(frame, papers.settings_of("method=sam; rho=0.2"))) == 3
    with pytest.raises(ValueError, match="no column 'radius' to choose rows with rad"):
        papers.fitting(frame, {"radius": 1})


@pytest.mark.parametrize(
    ("hours", "said"),
    [(1234.0, "1,200 GPU hours"), (0.123, "0.12 GPU hours")],
)
def test_hours_are_said_with_two_digits(hours, said):
    assert beside.spoken(hours) == said


def test_each_number_says_where_it_stands_and_how_it_is_known():
    assert set(NUMBERS["source"]) <= set(papers.SOURCES)
    for name in ("paper", "place", "data", "model", "method", "quantity"):
        assert (NUMBERS[name] != "").all(), name
    assert NUMBERS["value"].notna().all()
    names = ["paper", "place", "data", "model", "method", "quantity", "statistic"]
    assert not NUMBERS.duplicated(names).any()


def test_each_number_can_be_had_from_a_sweep_or_by_counting():
    for row in NUMBERS.to_dict("records"):
        if row["statistic"] in ("counted", "bound"):
            assert row["column"] in counted.COUNTED
            assert not row["sweep"]
            continue
        if not row["sweep"]:
            assert row["note"], "what cannot be compared says why"
            assert row["statistic"] == row["column"] == row["where"] == ""
            continue
        runs = papers.runs(SWEEPS / f"{row['sweep']}.yaml")
        kept = papers.fitting(runs, papers.settings_of(row["where"]))
        assert len(kept), f"{row['sweep']} has no run with {row['where']}"
        assert (row["statistic"] == "") == (row["column"] == "") == (row["share"] > 0)
        if row["statistic"] == "mean":  # all else is the same
            same = kept.drop(columns=["seed", "flops"]).astype(str)
            assert len(same.drop_duplicates()) == 1, row


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    """The columns of each study's row, from its smallest run."""
    few = {"epochs": 1, "limit": 100, "members": 2, "width": 4, "milestones": []}
    smallest = {
        "ensemble": {"reach": True},
        "hyper": {"kappa": 2, "batch": True},
        "star": {"schedule": "cosine", "pretrain_epochs": 1},
        "landscape": {
            **{"members": 3, "epochs": 6, "snapshots": True, "norm": "none"},
            **{"images": 50, "validation": 50, "late": 6, "samples": 2},
            "bend_epochs": 1,
        },
    }
    out = tmp_path_factory.mktemp("studies")
    return {
        study: set(jobs.run(jobs.job("smoke", study, few | more), out / study))
        for study, more in smallest.items()
    }


def test_each_number_names_a_column_of_its_study(columns):
    for row in NUMBERS[
        (NUMBERS["sweep"] != "") & (NUMBERS["column"] != "")
    ].itertuples():
        study = sweep.read(SWEEPS / f"{row.sweep}.yaml").study
        known = columns[study]
        if study == "ensemble":  # measured in the same way, on published images
            known |= {c.replace("shift_", "corrupted_") for c in known}
        assert row.column in known, f"{study} has no {row.column}"
        assert row.statistic != "best" or "val_nll" in known


def test_what_needs_no_training_is_near_the_papers_numbers():
    """Parameters to the digits given; simulated variances within 5 %.

    The authors' teacher is one random draw, ours has the mean length. Sharpness is
    below its bound.
    """
    found = papers.table(RESULTS, SWEEPS)
    sure = found[found["statistic"] == "counted"]
    ratio = sure["value"] / [interval.mean for interval in sure["ours"]]
    parameters = sure["quantity"] == "parameters"
    assert parameters.sum() == 3
    assert ratio[parameters].to_numpy() == pytest.approx(1, abs=1e-3)
    simulated = sure["place"] == "authors' notebook"
    assert ratio[simulated & ~parameters].to_numpy() == pytest.approx(1, abs=0.05)
    bounds = found[found["statistic"] == "bound"]
    assert len(bounds) > 5
    assert all(
        value <= ours.mean for value, ours in zip(bounds["value"], bounds["ours"])
    )


def test_costs_name_each_sweep_once(place):
    collect(place, "small-mini", test_accuracy=0.5)
    told = papers.costs(place, place).set_index("sweep")
    assert list(told.index) == ["small", "small-mini"]
    assert told["runs"].tolist() == [9, 9]
    assert told.loc["small", "run"] == "not yet"
    today = results.provenance("cpu", 0.0)["date"]
    assert told.loc["small-mini", "run"] == f"{today}, 0.00028 hours"
    assert told["of one"].tolist() == ["GPU", "CPU core"]
    ratio = told["hours"]["small-mini"] / told["hours"]["small"]
    assert ratio == pytest.approx(cost.GPU_TFLOPS / cost.CPU_TFLOPS)


def test_gains_are_ensemble_less_mean_member(tmp_path):
    (tmp_path / "papers.csv").write_text((RESULTS / "papers.csv").read_text())
    paper = papers.gains(tmp_path).set_index(["data", "method"])
    assert set(paper["who"]) == {"paper"}
    assert paper["mean"]["CIFAR-10", "deep ensemble"] == pytest.approx(0.84)
    assert paper["mean"]["CIFAR-10-C", "SharpBalance"] == pytest.approx(1.20)
    (tmp_path / "fig7-cifar10-mini.yaml").write_text(
        (SWEEPS / "fig7-cifar10-mini.yaml").read_text()
    )
    whole = np.linspace(0.5, 0.6, 9)
    gain = np.tile([0.01, 0.02, 0.03], 3)
    accuracies = {"test_accuracy": whole, "test_member_accuracy": whole - gain}
    shifted = {"shift_accuracy": whole, "shift_member_accuracy": whole - 2 * gain}
    collect(tmp_path, "fig7-cifar10-mini", **accuracies, **shifted)
    found = papers.gains(tmp_path).set_index(["who", "data", "method"])
    for data, times in (("CIFAR-10", 1), ("CIFAR-10-C", 2)):
        expected = results.interval(np.array([1.0, 2.0, 3.0]) * times)
        row = found.loc[("ours, reduced", data, "SAM ensemble")]
        assert row[["mean", "low", "high", "n"]].tolist() == pytest.approx(expected)


def test_claims_are_all_there_with_their_verdicts():
    known = pd.read_csv(RESULTS / "paper_claims.csv")
    assert known["source"].str.len().min() > 3
    for paper, part in known.groupby("paper"):
        (name,) = set(part["table"])
        asked = pd.read_csv(RESULTS / f"{name}.csv")
        told = claims.table(RESULTS, str(paper))
        assert set(told["claim"]) == set(asked["claim"]) == set(part["claim"])
        for row in told.itertuples():
            ours = asked[(asked["claim"] == row.claim) & (asked["data"] == row.data)]
            counts = [int(word.split()[0]) for word in row.answers.split(", ")]
            assert sum(counts) == len(ours)
            assert row.verdict in row.answers
            assert len(row.says) > 20
            assert row.command in set(ours["command"])
        pairs = asked[["claim", "data"]].drop_duplicates()
        assert len(told) == len(pairs)
        words = claims.shown(told)
        assert len(words) == len(told)
        assert not {"cifar10", "mlp", "lenet"} & set(words.index.get_level_values("on"))


def test_what_the_page_says_of_small_figure_7_is_so():
    """Gains in the paper's order; in pairs no two methods differ by more than luck."""
    frame = pd.read_csv(RESULTS / "fig7-cifar10-mini.csv")
    for images in ("test", "shift"):
        frame["gain"] = frame[f"{images}_accuracy"] - frame[f"{images}_member_accuracy"]
        gain = frame.pivot(index="seed", columns="method", values="gain")
        order = gain.mean().sort_values(ascending=False)
        assert list(order.index) == ["sgd", "sharpbalance", "sam"]
        for one, other in itertools.combinations(gain, 2):
            found = results.interval(gain[one] - gain[other])
            assert found.low < 0 < found.high
