"""The same task for many items, in several processes."""

import contextlib
import functools
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any

import torch

from sbtutor.progress import Progress

LOOK = 0.5  # seconds between two looks whether Ctrl-C was pressed
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """The number of processor cores that this process may use."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(
    task: Callable[[Any], Any],
    items: Iterable[Any],
    jobs: int | None = None,
    label: str | None = None,
) -> list[Any]:
    """The task's result for each item, in the order of the items.

    Each process uses one torch thread. One job, or one item, runs in this process
    with its own threads. An error in a task ends the other tasks and is raised here.
    The processes end with this one, however it ends.

    Args:
        task: a function that stands in a module, or `functools.partial` of one: the
            processes import it, so it cannot be written in a notebook. A script must
            call this below `if __name__ == "__main__":`.
        items: what the task is called with; each can be pickled.
        jobs: how many processes; None takes all `cores`.
        label: shows progress under this name, if given.

    Raises:
        ValueError: jobs < 1; a task, or an item's class, that was written in a
            notebook.
        RuntimeError: a process died.
    """
    items = list(items)
    jobs = cores() if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}; None takes all cores")
    jobs = min(jobs, len(items))
    if jobs > 1:
        _check_importable(task)
    progress = Progress(label, len(items)) if label and items else None

    def finished() -> None:
        if progress:
            progress.step(f"{jobs} at a time" if jobs > 1 else "one at a time")

    try:
        if jobs > 1:
            return _in_processes(task, items, jobs, finished)
        results = []
        for item in items:
            results.append(task(item))
            finished()
        return results
    finally:
        if progress:
            progress.close()


def _check_importable(task: Callable[[Any], Any]) -> None:
    while isinstance(task, functools.partial):
        task = task.func
    module = getattr(task, "__module__", None)
    if module == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        raise ValueError(
            f"{getattr(task, '__name__', task)} was written in a notebook, where other "
            "processes cannot import it: put it into a .py file, or write jobs=1"
        )


def _in_processes(
    task: Callable[[Any], Any],
    items: list[Any],
    jobs: int,
    finished: Callable[[], None],
) -> list[Any]:
    # spawn: a forked copy of a process with threads or a GPU context can hang.
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(jobs, context, _start, (theirs,))
    try:
        # Pickled here: tensors then go by value, not as shared memory with a file
        # descriptor each, of which a process may only have some hundreds.
        work = pickle.dumps(task)
        futures = [pool.submit(_call, work, pickle.dumps(item)) for item in items]
        for future in _as_completed(futures):
            future.result()
            finished()
        return [pickle.loads(future.result()) for future in futures]
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process died, perhaps for want of memory: run the same again "
            "with fewer jobs, what was finished is kept; in a script, the call must "
            'stand below `if __name__ == "__main__":`'
        ) from error
    except BaseException:
        ours.close()  # ends the processes in the midst of their tasks
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        ours.close()
        theirs.close()


def _as_completed(futures: list[Future]) -> Iterator[Future]:
    """Each future when it is ready; Ctrl-C is heard at any moment.

    `concurrent.futures.as_completed` waits without an end, and is deaf to a Ctrl-C that
    the system hands to another thread of this process. And `wait` takes locks that are
    not given back if a Ctrl-C comes just then.
    """
    ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    left = len(futures)
    while left:
        with contextlib.suppress(queue.Empty):
            yield ended.get(timeout=LOOK)
            left -= 1


def _call(task: bytes, item: bytes) -> bytes:
    """In a process."""
    try:
        work, given = pickle.loads(task), pickle.loads(item)
    except AttributeError as error:  # a class that stands in a notebook, say
        raise ValueError(
            f"another process cannot import what it is to work on ({error}): put it "
            "into a .py file, or write jobs=1"
        ) from None
    return pickle.dumps(work(given))


def _start(lifeline: Connection) -> None:
    """In each new process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=end_with, args=(lifeline,), daemon=True).start()


def end_with(lifeline: Connection) -> None:
    """Ends this process once the other end is closed, if only by the parent's death."""
    try:
        lifeline.poll(None)
    finally:
        os._exit(1)
