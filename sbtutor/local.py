"""Runs on this computer: one process each, with its share of cores or GPUs."""

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import torch

from sbtutor import attempts, jobs, perform, workers
from sbtutor.attempts import Outcome
from sbtutor.course import stop

PAUSE = 0.05  # seconds between two looks at the processes


class Running(NamedTuple):
    """A run in progress."""

    folder: Path
    process: BaseProcess
    place: str  # the GPUs that it has for itself, "" for none


class LocalPool:
    """Executes runs, so many at a time. Nothing need be started for it."""

    def __init__(
        self,
        jobs: int | None = None,
        threads: int = 1,
        gpus: float | None = None,
    ) -> None:
        """Nothing starts yet.

        Args:
            jobs: runs at a time; None: as many as the GPUs hold or, without GPUs, the
                cores.
            threads: of each run on the CPU. More than one changes the last bits of the
                results.
            gpus: of each run: whole ones, or a part of one (0.5: two runs share it).
                None: 1 where there is a GPU.

        Raises:
            ValueError: numbers out of range; more GPUs than there are.
        """
        check(jobs, threads, gpus)
        there = torch.cuda.device_count()
        gpus = float(there > 0) if gpus is None else gpus
        if gpus > there:
            raise ValueError(
                f"each run asks for {gpus:g} GPUs, but this computer has {there}; "
                f"write --gpus {there}"
            )
        places = _places(there, gpus)
        fits = len(places) if places else max(1, workers.cores() // threads)
        self.jobs = fits if jobs is None else jobs
        if places and self.jobs > fits:
            raise ValueError(
                f"{there} GPUs hold {fits} runs with {gpus:g} each, so --jobs can be "
                f"at most {fits}, got {jobs}; a smaller --gpus lets runs share one"
            )
        self.places = places or [""] * self.jobs
        self.env = dict.fromkeys(workers.THREADS, str(threads))
        self.running: list[Running] = []
        kind = "spawn" if sys.platform == "win32" else "forkserver"
        self.context = multiprocessing.get_context(kind)
        if kind == "forkserver":  # the imports are then done once, not by each run
            self.context.set_forkserver_preload(["papermill", "sbtutor.local"])
        self.theirs, self.ours = self.context.Pipe(duplex=False)

    def free(self) -> int:
        """How many runs may be started now."""
        return self.jobs - len(self.running)

    def start(self, folder: Path) -> None:
        """Start a run."""
        taken = [run.place for run in self.running]
        free = list(self.places)
        for place in taken:
            free.remove(place)
        env = self.env | {"CUDA_VISIBLE_DEVICES": free[0]}  # "" hides all
        process = self.context.Process(target=_child, args=(folder, env, self.theirs))
        process.start()
        self.running.append(Running(folder, process, free[0]))

    def finished(self) -> list[Outcome]:
        """The runs that have ended since the last call; waits a moment for one."""
        ended = [run for run in self.running if run.process.exitcode is not None]
        if not ended:
            time.sleep(PAUSE)
        self.running = [run for run in self.running if run not in ended]
        return [_outcome(run) for run in ended]

    def close(self) -> None:
        """End what is running; it can be gone on with."""
        stop([run.process.pid for run in self.running])
        self.running = []
        self.ours.close()
        self.theirs.close()


def check(jobs: int | None, threads: int, gpus: float | None) -> None:
    """Refuse numbers of runs, threads or GPUs that cannot be.

    Raises:
        ValueError: they are out of range.
    """
    for name, value in (("jobs", jobs), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    known = gpus is None or 0 <= gpus < math.inf  # not NaN
    if not known or (gpus is not None and gpus > 1 and gpus != int(gpus)):
        raise ValueError(
            "--gpus must be 0, a part of 1 such as 0.5, or a whole number, got "
            f"{gpus:g}"
        )


def _places(there: int, gpus: float) -> list[str]:
    """The GPUs of each run that fits, as CUDA_VISIBLE_DEVICES names them."""
    if gpus == 0:
        return []
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = shown.split(",") if shown else [str(i) for i in range(there)]
    if gpus < 1:
        return names * int(1 / gpus)
    size = int(gpus)
    return [",".join(names[i : i + size]) for i in range(0, there - size + 1, size)]


def _outcome(run: Running) -> Outcome:
    """By the run's own word, if its process lived to say it."""
    name, code = run.folder.name, run.process.exitcode
    if code == 0 and (run.folder / jobs.ROW).exists():
        return Outcome(name)
    last = (attempts.read(run.folder) or [{"event": ""}])[-1]
    if code == 0 and last["event"] in ("failed", "lost"):
        return Outcome(name, last["trouble"], last["event"] == "lost")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Outcome(name, f"its process died ({how})", lost=True)


def _child(folder: Path, env: dict[str, str], lifeline: Connection) -> None:
    """In the run's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    threading.Thread(target=workers.end_with, args=(lifeline,), daemon=True).start()
    os.environ |= env
    perform.log_to(folder)
    perform.perform(folder)
