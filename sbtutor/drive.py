"""A sweep's runs, one after the other into a pool: skipped, started, tried again."""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from sbtutor import cost, files, jobs
from sbtutor.attempts import Outcome
from sbtutor.jobs import Job
from sbtutor.studies import STUDIES
from sbtutor.sweep import Sweep

SECONDS_BETWEEN_LINES = 30.0
PATIENCE = 2.0  # seconds for another driver to let go


@runtime_checkable
class Pool(Protocol):
    """What executes runs: `local.LocalPool` or `cluster.RayPool`."""

    def free(self) -> int:
        """How many runs may be started now."""

    def start(self, folder: Path) -> None:
        """Start the run that the folder describes."""

    def finished(self) -> list[Outcome]:
        """The runs that have ended since the last call; waits a moment for one."""

    def close(self) -> None:
        """End what is running."""


def folder_of(out: Path, job: Job) -> Path:
    """The run's folder."""
    return out / "jobs" / job.name


def is_finished(out: Path, job: Job) -> bool:
    """Whether the run's row is there."""
    return (folder_of(out, job) / jobs.ROW).exists()


def flops(wanted: Sweep) -> dict[str, float]:
    """Floating-point operations of each run, by its name; 0 where they are unknown."""
    found = {}
    for job in wanted.jobs:
        try:
            sizes = cost.sizes_of(job.experiment.data)
            study = STUDIES[job.study]
            found[job.name] = study.flops(job.experiment, job.options, sizes)
        except (ValueError, RuntimeError):  # no such images here, or a giant network
            found[job.name] = 0.0
    return found


class Report:
    """Plain lines on how far a sweep is, and when it will end."""

    def __init__(self, wanted: Sweep, todo: list[Job]) -> None:
        """Time left is estimated from the share of the operations that is done."""
        self.total, self.finished = len(wanted.jobs), len(wanted.jobs) - len(todo)
        self.flops, self.failed = flops(wanted), 0
        self.left = sum(self.flops[job.name] for job in todo)
        self.whole, self.started = self.left, time.monotonic()
        self.printed = 0.0

    def say(self, what: str, running: int) -> None:
        """One line: an event, the counts, and the time left."""
        self.printed = time.monotonic()
        failed = f", {self.failed} failed" if self.failed else ""
        print(
            f"{what}{self.finished}/{self.total} finished{failed}, {running} running"
            f"{self._eta()}",
            flush=True,
        )

    def ended(self, outcome: Outcome, running: int) -> None:
        """A run ended for good."""
        self.left -= self.flops[outcome.name]
        if outcome.trouble:
            self.failed += 1
            self.say(f"{outcome.name} FAILED: {outcome.trouble}\n", running)
        else:
            self.finished += 1
            self.say(f"{outcome.name} finished; ", running)

    def wait(self, running: int) -> None:
        """A line now and then, when nothing else happens."""
        if time.monotonic() - self.printed >= SECONDS_BETWEEN_LINES:
            self.say("", running)

    def _eta(self) -> str:
        done = self.whole - self.left
        if done <= 0 or self.left <= 0:
            return ""
        seconds = (time.monotonic() - self.started) * self.left / done
        return f", about {spoken(seconds)} left"


def spoken(seconds: float) -> str:
    """A duration for people: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def work(out: Path, wanted: Sweep, pool: Pool, retries: int) -> list[Outcome]:
    """Do all runs that are not finished; returns those that failed.

    A run that was lost with its process or computer is tried again, so many times; one
    whose notebook raised an error is not: it would do so again.
    """
    todo = [job for job in wanted.jobs if not is_finished(out, job)]
    report, lost = Report(wanted, todo), Counter()
    waiting, running, failed = deque(todo), 0, []
    report.say("", 0)
    while waiting or running:
        while waiting and pool.free() > 0:
            job = waiting.popleft()
            folder = folder_of(out, job)
            files.write_json(folder / jobs.JOB, job.to_dict())
            pool.start(folder)
            running += 1
        for outcome in pool.finished():
            running -= 1
            if outcome.lost and lost[outcome.name] < retries:
                lost[outcome.name] += 1
                again = next(job for job in todo if job.name == outcome.name)
                waiting.append(again)
                report.say(f"{outcome.name} lost: {outcome.trouble}; again\n", running)
                continue
            report.ended(outcome, running)
            if outcome.trouble:
                failed.append(outcome)
        report.wait(running)
    return failed


@contextlib.contextmanager
def alone(out: Path, patience: float | None = None) -> Iterator[None]:
    """The only driver of a folder.

    Raises:
        LockedError: another one works there.
        ValueError: the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{out} cannot be made ({error.strerror}); give another folder with --out"
        ) from None
    try:
        with files.locked(out / "lock", PATIENCE if patience is None else patience):
            yield
    except files.LockedError as error:
        raise files.LockedError(
            f"{error}; wait for it to end, or give another folder with --out"
        ) from None
