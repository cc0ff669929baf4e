"""One run of a batch: its notebook, executed by papermill in this process."""

import contextlib
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from traitlets.config import Config

from sbtutor import files, jobs, lessons
from sbtutor.attempts import LOG, Outcome, note
from sbtutor.collect import load
from sbtutor.sweep import SAVED, Sweep

NOTEBOOK = "job.ipynb"  # beside `jobs/`, the same for all runs of a sweep
DONE = "notebook.ipynb"  # in a run's folder, executed
SECONDS_BETWEEN_SAVES = 60
# Troubles that another try may cure: a kernel that died, was slow to start, or met one
# that has not died yet.
DEATHS = ("kernel die", "Kernel died")
DELAYS = ("Kernel didn't respond", ": LockedError: ")


def notebook(lesson: NotebookNode) -> NotebookNode:
    """The part of a lesson that is a job: its cells up to the last one tagged `job`.

    Of the code, only the cells tagged `job` or `parameters`.

    Raises:
        ValueError: it has no such cells.
    """
    kept = {"job", "parameters"}
    at = [i for i, cell in enumerate(lesson.cells) if "job" in lessons.tags(cell)]
    named = set(lessons.parameters(lesson))
    missing = {"preset", "study", "settings", "folder", "shared"} - named
    if not at or missing:
        raise ValueError(
            "this notebook cannot be run as a job: it needs cells tagged 'job', and "
            "one tagged 'parameters' that sets preset, study, settings, folder, shared"
        )
    lesson.cells = [
        cell
        for cell in lesson.cells[: at[-1] + 1]
        if cell.cell_type == "markdown" or kept & set(lessons.tags(cell))
    ]
    return lessons.tidy(lesson)


def prepare(out: Path, wanted: Sweep, lesson: Path) -> None:
    """Write down the sweep, and the notebook of its runs.

    Raises:
        ValueError: the notebook cannot be run as a job; the folder holds another sweep,
            whose runs are not all in this one.
    """
    before = {job.name for job in load(out).jobs} if (out / SAVED).exists() else set()
    if not before <= {job.name for job in wanted.jobs}:
        raise ValueError(
            f"{out} holds another sweep, with runs that are not in this one; give "
            "another folder with --out"
        )
    try:
        job = notebook(lessons.read(lesson))
    except (SyntaxError, AttributeError, nbformat.ValidationError) as error:
        raise ValueError(f"{lesson} is no notebook of a job: {error}") from None
    out.mkdir(parents=True, exist_ok=True)
    lessons.write(job, out / NOTEBOOK)
    files.write_json(out / SAVED, wanted.to_dict())


def perform(folder: Path) -> Outcome:
    """Execute the notebook of one run, which trains it or goes on with it.

    The folder holds `job.json`. It gets the executed notebook, and a line for the start
    and for the end of each attempt in `attempts.jsonl`. A run is finished when its
    notebook has written `row.json`, whatever papermill says: it calls the cells of a
    kernel that died completed.
    """
    folder = folder.resolve()
    if not (folder / jobs.JOB).exists():
        return Outcome(
            folder.name,
            f"{folder / jobs.JOB} is not there: all computers need the same storage",
            lost=True,
        )
    if (folder / jobs.ROW).exists():
        return Outcome(folder.name)
    note(folder, event="started", host=platform.node(), pid=os.getpid())
    start = time.monotonic()
    trouble = _execute(folder)
    seconds = round(time.monotonic() - start, 1)
    finished = (folder / jobs.ROW).exists()
    if finished:
        note(folder, event="finished", seconds=seconds)
        return Outcome(folder.name)
    died = trouble is None or any(words in trouble for words in DEATHS)
    trouble = "the kernel died, perhaps for want of memory" if died else trouble
    lost = died or any(words in trouble for words in DELAYS)
    note(folder, event="lost" if lost else "failed", trouble=trouble, seconds=seconds)
    return Outcome(folder.name, trouble, lost)


def _execute(folder: Path) -> str | None:
    """Papermill's part; returns what went wrong, as far as it shows."""
    import papermill

    out, done = folder.parents[1], folder / DONE
    try:
        about = files.read_json(folder / jobs.JOB)
        about |= {"folder": str(folder), "shared": str(out / "shared")}
        (out / "shared").mkdir(exist_ok=True)
        with _kernel() as kernel:
            papermill.execute_notebook(
                str(out / NOTEBOOK),
                str(done),
                parameters=about,
                kernel_name=lessons.KERNEL["name"],
                cwd=os.getcwd(),
                progress_bar=False,
                log_output=True,
                autosave_cell_every=SECONDS_BETWEEN_SAVES,
                config=kernel,
            )
    except papermill.exceptions.PapermillExecutionError as error:
        return f"code cell {error.exec_count}: {error.ename}: {error.evalue}".strip()
    except Exception as error:  # nbclient and the disk raise many kinds
        return f"{type(error).__name__}: {error}"
    return lessons.problem(lessons.read(done)) if done.exists() else None


@contextlib.contextmanager
def _kernel() -> Iterator[Config]:
    """A kernel that is this interpreter, shows plain progress and keeps no journal."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as kernels:
        folder = Path(kernels)
        os.environ |= lessons.own_kernel(folder) | {"SBTUTOR_JOURNAL": "off"}
        os.environ.setdefault("SBTUTOR_PROGRESS", "plain")
        try:
            yield Config(KernelManager=lessons.sockets(folder))
        finally:
            os.environ.clear()
            os.environ |= before


def log_to(folder: Path) -> None:
    """Send this process's output, papermill's log too, to the run's `log.txt`."""
    with (folder / LOG).open("a") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
