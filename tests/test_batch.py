"""Sweeps from the command line: finished once, whatever dies in between."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys

import pandas as pd
import psutil
import pytest
import sweeps
import torch

from sbtutor import attempts, batch, course, files, jobs, perform, sweep
from sbtutor.local import LocalPool

GRID = {"method": ["sgd", "sam", "sharpbalance"], "rho": [0.1], "seed": [0]}


def directly(path, folder):
    """The table of the same runs, one after the other in this process."""
    rows = [jobs.run(j, folder / j.name, folder / "s") for j in sweep.read(path).jobs]
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return sweeps.table(folder)


def events(out):
    """Each run's attempts, as words."""
    return {
        folder.name: [line["event"] for line in attempts.read(folder)]
        for folder in sorted((out / "jobs").iterdir())
    }


# Ports could be taken by the kernel of a run beside this one.
SOCKETS = """
import ipykernel, pathlib, tempfile
from sbtutor import lessons
likely = pathlib.Path(tempfile.gettempdir(), "tmp12345678")
assert bool(lessons.sockets(likely)) == ('"ipc"' in ipykernel.get_connection_info())
"""


def test_a_sweep_gives_the_table_of_its_runs(tmp_path, quiet, monkeypatch):
    path = sweeps.write(tmp_path / "s.yaml", sweeps.TINY, GRID)
    lesson, out = sweeps.lesson(tmp_path / "l.ipynb", SOCKETS), tmp_path / "out"
    argv = [str(path), "--out", str(out), "--lesson", str(lesson), "--jobs", "2"]
    assert batch.main(argv) == 0
    expected = directly(path, tmp_path)
    pd.testing.assert_frame_equal(sweeps.table(out), expected, check_exact=True)
    parquet = pd.read_parquet(out / "table.parquet")
    assert parquet["run"].tolist() == expected["run"].tolist()
    assert all(e == ["started", "finished"] for e in events(out).values())
    done = json.loads(
        (out / "jobs" / expected["run"][0] / "notebook.ipynb").read_text()
    )
    assert "the lesson, not the job" not in str(done)
    assert done["cells"][0]["source"] == ["# What came out of one run?"]
    monkeypatch.setattr(LocalPool, "start", pytest.fail)
    assert batch.main(["resume", str(out)]) == 0  # does nothing again
    assert all(e == ["started", "finished"] for e in events(out).values())


def at_work(driver):
    """Whether two runs have each a process and a kernel, beside multiprocessing's two.

    A moment later the kernels are in their training, where they went on.
    """
    assert driver.poll() is None
    return len(psutil.Process(driver.pid).children(recursive=True)) >= 6


def begun(out):
    """Whether some run has a checkpoint and no end."""
    there = (p.parents[1] for p in out.glob("jobs/*/run/checkpoint.pt"))
    return any(not (folder / jobs.ROW).exists() for folder in there)


def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path, quiet, capsys):
    """SIGTERM, then SIGKILL: no process survives, no finished run is done again."""
    grid = {"method": ["sgd", "sam", "sharpbalance"], "seed": [0]}
    path = sweeps.write(tmp_path / "s.yaml", sweeps.LONGER, grid)
    lesson, out = sweeps.lesson(tmp_path / "l.ipynb"), tmp_path / "out"
    words = [path, "--out", out, "--lesson", lesson, "--jobs", 2]
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with sweeps.start(*words, stdout=subprocess.DEVNULL) as driver:
            try:
                assert sweeps.eventually(lambda: at_work(driver) and begun(out))
                family = psutil.Process(driver.pid).children(recursive=True)
                driver.send_signal(sign)
                code = driver.wait(timeout=30)
                assert code == (143 if sign == signal.SIGTERM else -signal.SIGKILL)
            finally:
                course.stop([driver.pid])
        assert psutil.wait_procs(family, timeout=20)[1] == []
        assert batch.main(["status", str(out)]) == 0
        said = capsys.readouterr().out
        assert "no driver is at work" in said
        assert "stopped since" in said
    assert batch.main([*map(str, words)]) == 0
    expected = directly(path, tmp_path)
    pd.testing.assert_frame_equal(sweeps.table(out), expected, check_exact=True)
    for told in events(out).values():
        assert told.count("finished") == 1
    assert any(told.count("started") > 1 for told in events(out).values())


@pytest.mark.parametrize(("told", "code"), [(True, 143), (False, 1)])
def test_a_sweep_that_is_told_to_end_says_so(tmp_path, monkeypatch, told, code):
    """Ray writes its own exit code over ours; one that was not told keeps it."""

    class Pool:
        closed = False

        def free(self):
            return 1

        def start(self, folder):
            assert folder.is_dir()

        def finished(self):
            with contextlib.suppress(SystemExit):
                if told:
                    os.kill(os.getpid(), signal.SIGTERM)
                    pytest.fail("the signal was not heard")
            sys.exit(1)

        def close(self):
            self.closed = True

    pool = Pool()
    monkeypatch.setattr(batch, "make_pool", lambda args: pool)
    path = sweeps.write(tmp_path / "s.yaml", sweeps.TINY, GRID)
    lesson = sweeps.lesson(tmp_path / "l.ipynb")
    argv = [str(path), "--out", str(tmp_path / "out"), "--lesson", str(lesson)]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        batch.main(argv)
    assert end.value.code == code
    assert pool.closed
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_driver_is_refused(tmp_path, quiet, capsys, monkeypatch):
    path = sweeps.write(tmp_path / "s.yaml", sweeps.TINY, GRID)
    out, lesson = tmp_path / "out", sweeps.lesson(tmp_path / "l.ipynb")
    monkeypatch.setattr("sbtutor.drive.PATIENCE", 0.1)
    with files.locked(out / "lock"):  # another file handle is another driver
        argv = [str(path), "--out", str(out), "--lesson", str(lesson)]
        assert batch.main(argv) == 2
        assert f"being worked on by process {os.getpid()}" in capsys.readouterr().err
        assert batch.main(["status", str(out)]) == 2  # no sweep was written
    assert not (out / "jobs").exists()


DIES = """
import os, pathlib, signal

seen = pathlib.Path(folder, "seen")
if not seen.exists():
    seen.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("retries", [0, 1])
def test_a_dead_kernel_is_no_finished_run(tmp_path, quiet, capsys, retries):
    """Papermill calls it completed."""
    path = sweeps.write(tmp_path / "s.yaml", sweeps.TINY, {"seed": [0]})
    lesson, out = sweeps.lesson(tmp_path / "l.ipynb", DIES), tmp_path / "out"
    argv = [str(path), "--out", str(out), "--lesson", str(lesson)]
    assert batch.main([*argv, "--retries", str(retries)]) == 1 - retries
    [told] = events(out).values()
    assert told == ["started", "lost"] + ["started", "finished"] * retries
    said = capsys.readouterr()
    assert "the kernel died, perhaps for want of memory" in said.out
    if not retries:
        assert "FAILED: sgd-seed0" in said.err
        assert "log.txt" in said.err
        assert batch.main(["status", str(out)]) == 0
        assert "1 lost" in capsys.readouterr().out


def test_an_error_in_the_notebook_is_not_tried_again(tmp_path, quiet, capsys):
    path = sweeps.write(tmp_path / "s.yaml", sweeps.TINY, {"seed": [0, 10]})
    wrong = "if settings.get('seed') == 10:\n    raise ArithmeticError('no luck')\n"
    lesson, out = sweeps.lesson(tmp_path / "l.ipynb", wrong), tmp_path / "out"
    argv = [str(path), "--out", str(out), "--lesson", str(lesson), "--jobs", "1"]
    assert batch.main(argv) == 1
    assert "code cell 3: ArithmeticError: no luck" in capsys.readouterr().err
    assert len(sweeps.table(out)) == 1
    assert batch.main(["status", str(out)]) == 0
    assert "1 finished, 1 failed" in capsys.readouterr().out
    (lesson_now := out / "job.ipynb").write_text(  # someone mends the notebook
        lesson_now.read_text().replace("no luck", "still none")
    )
    assert batch.main(["resume", str(out)]) == 1
    assert sorted(map(len, events(out).values())) == [2, 4]


def test_a_run_that_meets_a_living_kernel_is_tried_again(tmp_path, quiet, capsys):
    """As after a kill, when the old one has not noticed yet."""
    path = sweeps.write(tmp_path / "s.yaml", sweeps.TINY, {"seed": [0]})
    [name] = [job.name for job in sweep.read(path).jobs]
    short = "from sbtutor import jobs as j\n\nj.PATIENCE = 0.1\n"
    lesson, out = sweeps.lesson(tmp_path / "l.ipynb", short), tmp_path / "out"
    argv = [str(path), "--out", str(out), "--lesson", str(lesson), "--retries", "0"]
    with files.locked(out / "jobs" / name / "lock"):
        assert batch.main(argv) == 1
    assert events(out) == {name: ["started", "lost"]}
    assert "LockedError" in capsys.readouterr().err
    assert batch.main(argv) == 0


def test_the_driver_says_what_a_run_is(tmp_path, quiet):
    """Whatever lies in its folder: another run's description, or half of one."""
    path = sweeps.write(tmp_path / "s.yaml", sweeps.TINY, {"seed": [0, 10]})
    lesson, out = sweeps.lesson(tmp_path / "l.ipynb"), tmp_path / "out"
    jobs_there = sweep.read(path).jobs
    files.write_json(
        out / "jobs" / jobs_there[0].name / "job.json", jobs_there[1].to_dict()
    )
    (out / "jobs" / jobs_there[1].name).mkdir()
    (out / "jobs" / jobs_there[1].name / "job.json").write_text('{"pres')
    argv = [str(path), "--out", str(out), "--lesson", str(lesson)]
    assert batch.main(argv) == 0
    assert sweeps.table(out)["seed"].tolist() == [0, 10]
    assert sweeps.table(out)["run"].tolist() == [job.name for job in jobs_there]


def test_another_sweep_does_not_take_a_folder_over(tmp_path, capsys):
    """A larger one may."""
    out, lesson = tmp_path / "out", sweeps.lesson(tmp_path / "l.ipynb")
    for seeds, fits in (([0], True), ([0, 10], True), ([10, 20], False)):
        path = sweeps.write(tmp_path / "s.yaml", sweeps.TINY, {"seed": seeds})
        if fits:
            perform.prepare(out, sweep.read(path), lesson)
        else:
            argv = [str(path), "--out", str(out), "--lesson", str(lesson)]
            assert batch.main(argv) == 2
            assert "holds another sweep, with runs that are" in capsys.readouterr().err
    assert len(json.loads((out / "sweep.json").read_text())["jobs"]) == 2


@pytest.mark.parametrize("content", ["{}", "{", "no parameters", "%magic"])
def test_a_notebook_that_is_no_job_is_refused(tmp_path, content):
    lesson = tmp_path / "l.ipynb"
    sweeps.lesson(lesson)
    if content == "no parameters":
        lesson.write_text(lesson.read_text().replace("shared: str", "other: str"))
        match = "cannot be run as a job: it needs cells tagged 'job', and one tagged"
    elif content == "%magic":
        lesson.write_text(lesson.read_text().replace("preset: str =", "%magic"))
        match = "is no notebook of a job"
    else:
        lesson.write_text(content)
        match = "otebook"
    wanted = sweep.parse({"what": "x", "preset": "smoke", "grid": {"seed": [0]}})
    with pytest.raises(ValueError, match=match):
        perform.prepare(tmp_path / "out", wanted, lesson)


WRONG = {
    "no file": (None, "s.yaml is no file; a sweep is a YAML file"),
    "no yaml": ("{", "is no YAML"),
    "an unknown key": ({"gird": {"seed": [0]}}, "unknown key 'gird': did you mean 'g"),
    "a wrong type": ({"grid": {"rho": ["much"]}}, "rho must be a finite number, got"),
    "out of range": ({"grid": {"rho": [0.0], "method": ["sam"]}}, "sam steps a dista"),
    "an empty grid": ({"grid": {}}, "a grid is names with lists of values, at least"),
    "an empty axis": ({"grid": {"seed": []}}, "seed in the grid must be a list of one"),
    "a name twice": ("what: x\nwhat: y", "a name is there twice in one place"),
    "a giant": ({"grid": {"seed": [10**400]}}, "seed must be a whole number, got 1000"),
    "a giant rho": ({"grid": {"rho": [10**400]}}, "rho must be a finite number, got 1"),
    "a number for a name": ({"grid": {1: [2]}}, "unknown setting 1"),
    "one GPU": ({"settings": {"device": "cuda:1"}}, "names one GPU, but a sweep hands"),
    "a size": ({"settings": {"size": 3, "model": "lenet"}}, "lenet pools images down"),
    "no such set": ({"settings": {"data": "mnist-mini"}}, "unknown data set 'mnist-mi"),
    "no such device": ({"settings": {"device": "cuda"}}, "device 'cuda' cannot be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line_and_nothing_starts(tmp_path, capsys, unchecked, case):
    content, match = WRONG[case]
    path, out = tmp_path / "s.yaml", tmp_path / "out"
    if isinstance(content, dict):
        sweeps.write(path, **{"settings": {}, "grid": {"seed": [0]}} | content)
    elif content is not None:
        path.write_text(content)
    lesson = sweeps.lesson(tmp_path / "l.ipynb")
    argv = [str(path), "--out", str(out), "--lesson", str(lesson)]
    assert batch.main(argv) == 2
    said = capsys.readouterr()
    assert match in said.err
    assert said.err.count("\n") == 1
    assert not out.exists()


def test_a_gpu_that_is_not_there_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    path = sweeps.write(tmp_path / "s.yaml", sweeps.TINY, GRID)
    out, lesson = tmp_path / "out", sweeps.lesson(tmp_path / "l.ipynb")
    argv = [str(path), "--out", str(out), "--lesson", str(lesson), "--gpus", "1"]
    assert batch.main(argv) == 2
    assert "asks for 1 GPUs, but this computer has 0; write" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["s.yaml"], "say where the runs are kept: --out runs/NAME"),
        (["s.yaml", "--out", "o", "--retries", "-1"], "--retries must be 0 or more"),
        (
            ["s.yaml", "--out", "o", "--ray", "auto", "--jobs", "2"],
            "--jobs is for this",
        ),
        (["s.yaml", "--dry-run", "--tflops", "0"], "--tflops must be positive, got 0"),
    ],
)
def test_a_wrong_command_is_told(capsys, words, match):
    with pytest.raises(SystemExit) as error:
        batch.main(words)
    assert error.value.code == 2
    assert match in capsys.readouterr().err


def test_a_missing_notebook_and_a_missing_sweep_are_told(tmp_path, capsys):
    path = sweeps.write(tmp_path / "s.yaml", sweeps.TINY, GRID)
    out = tmp_path / "out"
    argv = [str(path), "--out", str(out), "--lesson", str(tmp_path / "none.ipynb")]
    assert batch.main(argv) == 2
    assert "none.ipynb; run this from the repository's root" in capsys.readouterr().err
    for word in ("status", "resume", "collect"):
        assert batch.main([word, str(out)]) == 2
        assert (
            "holds no sweep (no sweep.json); begin one with" in capsys.readouterr().err
        )
    files.write_json(out / "sweep.json", {"preset": "smoke", "study": "ensemble"})
    assert batch.main(["status", str(out)]) == 2
    assert "is of another version" in capsys.readouterr().err


def test_a_full_disk_is_one_line(tmp_path, capsys, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "disk full: free some space")

    monkeypatch.setattr("sbtutor.drive.work", full)
    path = sweeps.write(tmp_path / "s.yaml", sweeps.TINY, GRID)
    out, lesson = tmp_path / "out", sweeps.lesson(tmp_path / "l.ipynb")
    argv = [str(path), "--out", str(out), "--lesson", str(lesson)]
    assert batch.main(argv) == 1
    assert capsys.readouterr().err == "error: [Errno 28] disk full: free some space\n"


def test_a_dry_run_counts_and_prices(tmp_path, capsys):
    path = sweeps.write(tmp_path / "s.yaml", sweeps.TINY, GRID | {"rho": [0.1, 0.2]})
    assert batch.main([str(path), "--dry-run", "--tflops", "0.001"]) == 0
    said = capsys.readouterr().out
    assert "5 runs of study 'ensemble' (6 combinations, some of them the same" in said
    assert "rho: 0.1, 0.2" in said
    assert "at 0.001 TFLOP/s, as given" in said
    assert "all there" in said
    gone = sweeps.write(tmp_path / "s.yaml", sweeps.TINY | {"data": "none"}, GRID)
    assert batch.main([str(gone), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "not ready: unknown data set 'none'" in said
    assert "3 runs not counted, as they cannot be here" in said
