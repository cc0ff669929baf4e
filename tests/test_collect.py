"""A sweep's folder: the states of its runs, its table, results to commit."""

import json

import pandas as pd
import pytest

from sbtutor import attempts, batch, collect, drive, files, jobs, results, sweep

WANTED = {"what": "a test", "preset": "smoke", "grid": {"seed": list(range(0, 60, 10))}}


@pytest.fixture
def out(tmp_path):
    """Six runs: finished, failed, lost, started and one whose last line is cut."""
    wanted = sweep.parse(WANTED)
    files.write_json(tmp_path / "sweep.json", wanted.to_dict())
    told = [
        [("started", ""), ("finished", "")],
        [("started", ""), ("failed", "no luck")],
        [("started", ""), ("lost", "signal 9")],
        [("started", "")],
        [],
        [],
    ]
    for job, events in zip(wanted.jobs, told):
        folder = drive.folder_of(tmp_path, job)
        folder.mkdir(parents=True)
        for event, trouble in events:
            attempts.note(folder, event=event, trouble=trouble, host="here")
    with (drive.folder_of(tmp_path, wanted.jobs[4]) / "attempts.jsonl").open(
        "w"
    ) as file:
        file.write('{"event": "star')
    finish(tmp_path, wanted.jobs[0], 0.75)
    return tmp_path


def finish(out, job, accuracy):
    row = {"run": job.name, "root": "/home/me", "limit": None, "test_nll": float("nan")}
    made = results.provenance("cpu", 2.5)
    files.write_json(
        drive.folder_of(out, job) / jobs.ROW, row | {"test_accuracy": accuracy} | made
    )


def test_status_tells_each_state(out):
    said = collect.status(out, collect.load(out))
    first, *rest = said.splitlines()
    assert first.startswith(
        "a test: 6 runs: 2 waiting, 1 finished, 1 failed, 1 lost, 1"
    )
    assert first.endswith("1 stopped; no driver is at work")
    names = [job.name for job in collect.load(out).jobs]
    assert rest[0] == f"  {names[1]}: failed no luck"
    assert rest[1] == f"  {names[2]}: lost signal 9"
    assert rest[2].startswith(f"  {names[3]}: stopped since 20")
    with drive.alone(out):
        said = collect.status(out, collect.load(out))
    assert "1 running; a driver is at work" in said


def test_the_table_has_finished_runs_in_the_grids_order(out):
    wanted = collect.load(out)
    finish(out, wanted.jobs[5], 1 / 3)
    finish(out, wanted.jobs[3], 0.5)
    frame = pd.read_csv(collect.write(out, wanted))
    assert frame["run"].tolist() == [wanted.jobs[i].name for i in (0, 3, 5)]
    assert frame["test_accuracy"].tolist() == [0.75, 0.5, 1 / 3]
    assert frame["test_nll"].isna().all()
    again = pd.read_parquet(out / "table.parquet")
    assert again["test_accuracy"].tolist() == frame["test_accuracy"].tolist()


@pytest.mark.parametrize("jobs_there", [[], [1], [["a"]], "x"])
def test_a_broken_sweep_is_told(out, jobs_there):
    saved = json.loads((out / "sweep.json").read_text())
    files.write_json(out / "sweep.json", saved | {"jobs": jobs_there})
    with pytest.raises(
        ValueError, match=r"(?s)sweep.json (is of another|names no runs).*; delete"
    ):
        collect.load(out)


def test_a_row_that_is_none_is_told(out):
    wanted = collect.load(out)
    (drive.folder_of(out, wanted.jobs[0]) / jobs.ROW).write_text("[]")
    with pytest.raises(ValueError, match=r"row.json holds no row; delete it"):
        collect.table(out, wanted)


def test_half_a_line_spoils_no_other(tmp_path):
    (tmp_path / "attempts.jsonl").write_text('{"event": "lost"}\n{"event": "st')
    attempts.note(tmp_path, event="started")
    attempts.note(tmp_path, event="finished")
    told = [line["event"] for line in attempts.read(tmp_path)]
    assert told == ["lost", "started", "finished"]


def test_without_pyarrow_there_is_a_csv(out, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    collect.write(out, collect.load(out))
    assert (out / "table.csv").exists()
    assert not (out / "table.parquet").exists()


def test_a_damaged_row_is_named(out):
    wanted = collect.load(out)
    path = drive.folder_of(out, wanted.jobs[0]) / jobs.ROW
    path.write_text("{")
    with pytest.raises(
        ValueError, match=r"row.json is not valid JSON.*delete it: the r"
    ):
        collect.table(out, wanted)


def test_a_result_to_commit_says_how_it_was_made(out, capsys, monkeypatch):
    monkeypatch.chdir(out)
    assert batch.main(["collect", str(out), "--to", str(out / "found")]) == 0
    frame = results.committed(out / "found")
    assert frame["test_accuracy"].tolist() == [0.75]
    assert "root" not in frame
    about = json.loads((out / "found.json").read_text())
    assert about["what"] == "a test"
    assert (about["runs"], about["of"], about["seconds"]) == (1, 6, 2.5)
    assert about["device"] == "cpu"
    said = capsys.readouterr().out
    assert "a test; measured" in said


def test_nothing_finished_is_no_result(tmp_path):
    wanted = sweep.parse(WANTED)
    with pytest.raises(
        ValueError, match=r"no run of .* is finished, so there is nothing"
    ):
        collect.publish(tmp_path, wanted, tmp_path / "x")
