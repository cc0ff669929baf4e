"""Lesson 10 as a job: its first cells alone do a run, and are short to read."""

import json
from pathlib import Path

import papermill
import pytest

from sbtutor import config, jobs, lessons, perform, results

SOURCE = Path(__file__).parents[1] / "notebooks" / "source" / "10_full_scale.py"
SMALL = {"members": 2, "epochs": 2, "milestones": [1], "warmup_epochs": 1}


@pytest.fixture
def nb():
    return perform.notebook(lessons.from_source(SOURCE))


@pytest.fixture
def execute(nb, tmp_path, monkeypatch):
    """Runs the job's cells alone; returns the executed notebook."""
    for name, value in lessons.own_kernel(tmp_path / "kernels").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SBTUTOR_PROGRESS", "plain")
    monkeypatch.setenv("SBTUTOR_RUNS", str(tmp_path / "runs"))
    plain, done = tmp_path / "job.ipynb", tmp_path / "done.ipynb"
    lessons.write(nb, plain)

    def run(**parameters):
        papermill.execute_notebook(
            str(plain), str(done), parameters, kernel_name="python3",
            cwd=str(tmp_path), progress_bar=False,
        )  # fmt: skip
        return lessons.read(done)

    return run


def test_the_job_alone_leaves_its_row_and_a_report_with_its_numbers(execute, tmp_path):
    about = {"preset": "smoke", "study": "ensemble", "settings": SMALL}
    folder = tmp_path / "out" / "a run"
    done = execute(**about, folder=str(folder), shared=str(tmp_path / "shared"))
    assert lessons.problem(done) is None
    row = jobs.row(folder)
    wanted = jobs.job(**about)
    assert row["run"] == wanted.name
    assert results.is_complete(folder / "run")
    assert json.loads((folder / jobs.JOB).read_text()) == wanted.to_dict()
    said = "".join(o.get("text", "") for o in lessons.outputs(done))
    assert wanted.name in said
    assert f"test_accuracy {row['test_accuracy']:.4g}" in " ".join(said.split())


def test_without_a_folder_the_run_lies_where_the_lessons_keep_theirs(execute, tmp_path):
    execute(preset="smoke", settings=SMALL)
    name = jobs.job("smoke", "ensemble", SMALL).name
    there = tmp_path / "runs" / "lessons" / "smoke" / "10" / "one" / name
    assert (there / jobs.ROW).exists()


def test_the_job_comes_first_and_is_short(nb):
    whole = lessons.from_source(SOURCE)
    assert [cell.id for cell in nb.cells] == [
        cell.id for cell in whole.cells[: len(nb.cells)]
    ]
    code = lessons.code(nb)
    assert ["parameters" in lessons.tags(cell) for cell in code] == [
        True, *[False] * (len(code) - 1),
    ]  # fmt: skip
    assert len(code) <= 4


@pytest.mark.parametrize("preset", config.PRESETS)
def test_the_settings_that_it_begins_with_fit_each_preset(nb, preset):
    given = {}
    exec(lessons.code(nb)[0].source, given)
    assert jobs.job(preset, given["study"], given["settings"])
