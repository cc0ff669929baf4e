"""Small sweeps for the tests: a notebook of a run, the command line, its tables."""

import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import yaml

ROOT = Path(__file__).parents[1]
PARAMETERS = """
preset: str = "smoke"
study: str = "ensemble"
settings: dict = {}
folder: str = ""
shared: str = ""
"""
RUN = """
from sbtutor import jobs

job = jobs.job(preset, study, settings)
row = jobs.run(job, folder, shared)
"""
TINY = {"limit": 100, "epochs": 3, "milestones": [2], "warmup_epochs": 1, "width": 4}
LONGER = TINY | {"epochs": 60, "milestones": [40], "warmup_epochs": 20}
# What may differ between two ways to do the same run.
ELSEWHERE = ["seconds", "date", "device"]


def lesson(path, before=""):
    """A notebook that can be a job: one run, after some code of the test's."""
    cells = [
        nbformat.v4.new_markdown_cell("# What came out of one run?"),
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(before + RUN, metadata={"tags": ["job"]}),
        nbformat.v4.new_code_cell("row", metadata={"tags": ["job"]}),
        nbformat.v4.new_code_cell("raise ValueError('the lesson, not the job')"),
    ]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def write(path, settings, grid, **more):
    """The YAML file of a sweep at preset smoke."""
    content = {"what": "a test", "preset": "smoke", "settings": settings, "grid": grid}
    path.write_text(yaml.safe_dump(content | more))
    return path


def command(*words):
    """The command line of the batch, to be run in a process of its own."""
    return [sys.executable, "-m", "sbtutor.batch", *map(str, words)]


def start(*words, **more):
    """The command, running."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command(*words), cwd=ROOT, **pipes | more)


def table(out):
    """The collected table without what depends on time and place."""
    return pd.read_csv(out / "table.csv").drop(columns=ELSEWHERE)


def eventually(condition, seconds=180):
    """Whether it comes true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return False
