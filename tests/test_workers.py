"""Tasks in several processes: order, errors, deaths, interrupts."""

import functools
import math
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import pytest
import torch

from sbtutor import workers

TASKS = '''
"""Tasks stand in a module, so that other processes can import them."""
import os, signal, time
from pathlib import Path
import torch

def about(barrier, item):
    """Returns once both items are at work; the first one later."""
    (barrier / str(item)).touch()
    while len(list(barrier.iterdir())) < 2:
        time.sleep(0.01)
    time.sleep(0.2 * (item == 0))
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return item, os.getpid(), torch.get_num_threads(), ignored

def fails_first(folder, item):
    """Item 0 fails once item 1 is at work; the others take for ever."""
    (folder / f"{item}-{os.getpid()}").touch()
    while not list(folder.glob("1-*")):
        time.sleep(0.01)
    if item == 0:
        raise ZeroDivisionError("item 0")
    time.sleep(1000)

def shifted(by, item):
    """Tensors that came, and those that go back, lie in no shared memory."""
    assert not by.is_shared()
    assert not any(t.is_shared() for t in item)
    return [t + by for t in item]

def answer(item):
    return 42

def dies(item):
    os.kill(os.getpid(), signal.SIGKILL)
'''

PARENT = """
    import functools, pathlib, tasks
    from sbtutor import workers
    workers.run(functools.partial(tasks.fails_first, pathlib.Path()), [1, 2, 3], 2)
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """The module `tasks`, here and in the processes."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    import tasks

    yield tasks
    del sys.modules["tasks"]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "marks"
    made.mkdir()
    return made


def eventually(holds) -> bool:
    """Whether it holds within a minute."""
    end = time.monotonic() + 60
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def is_running(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize(("jobs", "items"), [(1, [4, 1, 9]), (8, [4]), (None, [])])
def test_one_job_or_one_item_needs_no_other_process(jobs, items):
    """A task that no other process could import, with the threads of this one."""
    here = []
    threads = torch.get_num_threads()

    def root(x):
        here.append((os.getpid(), torch.get_num_threads()))
        return math.sqrt(x)

    found = workers.run(root, iter(items), jobs)
    assert found == [math.sqrt(x) for x in items]
    assert set(here) <= {(os.getpid(), threads)}


def test_results_stand_in_the_order_of_the_items(tasks, folder):
    """Whichever is ready first; two processes of one thread each, deaf to Ctrl-C."""
    found = workers.run(functools.partial(tasks.about, folder), [0, 1], jobs=5)
    items, pids, threads, ignored = zip(*found)
    assert items == (0, 1)
    assert len({*pids, os.getpid()}) == 3
    assert threads == (1, 1)
    assert ignored == (True, True)
    assert not multiprocessing.active_children()


def test_an_error_ends_the_other_tasks_and_is_raised_here(tasks, folder):
    """Were they not ended, this test would take 1000 seconds."""
    with pytest.raises(ZeroDivisionError, match="item 0"):
        workers.run(functools.partial(tasks.fails_first, folder), range(5), jobs=2)
    assert not multiprocessing.active_children()
    begun = {path.name.split("-")[0] for path in folder.iterdir()}
    assert begun <= {"0", "1", "2"}  # 2: may have begun while the error was raised


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_tensors_go_by_value_and_keep_no_files_open(tasks):
    """Shared, each would hold a file descriptor here, of which there are few."""
    items = [[torch.arange(3) + i, torch.ones(2, 2) * i] for i in range(40)]
    before = open_files()
    task = functools.partial(tasks.shifted, torch.tensor(0.5))
    found = workers.run(task, items, jobs=2)
    assert open_files() < before + 40
    for item, back in zip(items, found, strict=True):
        assert not any(t.is_shared() for t in (*item, *back))
        assert all(torch.equal(t + 0.5, u) for t, u in zip(item, back, strict=True))


def test_an_item_of_a_class_that_others_cannot_import_is_refused(tasks, monkeypatch):
    """As a network whose class stands in a notebook; this process knows it."""
    mine = type("Local", (), {"__module__": "tasks", "__qualname__": "Local"})
    monkeypatch.setattr(tasks, "Local", mine, raising=False)
    assert workers.run(tasks.answer, [mine(), mine()], jobs=1) == [42, 42]
    message = (
        r"cannot import what it is to work on .*Local.*a \.py file, or write jobs=1"
    )
    with pytest.raises(ValueError, match=message):
        workers.run(tasks.answer, [mine(), mine()], jobs=2)


def test_an_error_in_this_process_is_raised_as_it_is():
    with pytest.raises(ValueError, match="math domain error"):
        workers.run(math.sqrt, [1, -1], jobs=1)


def test_a_process_that_dies_is_told_of_with_what_to_do(tasks):
    message = "worker process died.*fewer jobs, what was finished is kept; in a script"
    with pytest.raises(RuntimeError, match=message):
        workers.run(tasks.dies, [0, 1], jobs=2)
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_the_processes_end_with_their_parent(tasks, folder, how):
    """SIGINT goes to all, as from a terminal and from JupyterLab."""
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT)],
        cwd=folder,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert eventually(lambda: len(list(folder.iterdir())) == 2)
    pids = [int(path.name.split("-")[1]) for path in folder.iterdir()]
    assert all(map(is_running, pids))
    send = os.killpg if how == "SIGINT" else os.kill
    send(parent.pid, getattr(signal, how))
    said = parent.communicate(timeout=60)[1]
    assert parent.returncode == -getattr(signal, how)
    assert eventually(lambda: not any(map(is_running, pids)))
    assert ("KeyboardInterrupt" in said) == (how == "SIGINT")
    assert said.count("Traceback") <= 1  # the parent's own


# Such a Ctrl-C comes seldom, and interrupts no wait of the main thread.
TOLD_ELSEWHERE = """
    import os, signal, threading, time

    def tell():
        while len(os.listdir()) < 2:
            time.sleep(0.05)
        time.sleep(0.5)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    threading.Thread(target=tell, daemon=True).start()
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_a_ctrl_c_that_comes_to_another_thread_is_heard(tasks, folder):
    code = textwrap.dedent(TOLD_ELSEWHERE + PARENT)
    parent = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, timeout=120
    )
    assert parent.returncode == -signal.SIGINT
    assert b"KeyboardInterrupt" in parent.stderr


def test_no_jobs_are_refused():
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0; None takes"):
        workers.run(math.sqrt, [1], jobs=0)


@pytest.mark.parametrize("wrap", [lambda f: f, functools.partial])
def test_a_task_from_a_notebook_is_refused(monkeypatch, wrap):
    """There `__main__` is no file, so that no other process can import from it."""
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))

    def square(x):
        return x * x

    square.__module__ = "__main__"
    assert workers.run(wrap(square), [2, 3], jobs=1) == [4, 9]
    with pytest.raises(
        ValueError, match=r"square was written in a notebook.*or write j"
    ):
        workers.run(wrap(square), [2, 3], jobs=2)


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert workers.cores() == 3
    monkeypatch.setattr(os, "process_cpu_count", lambda: 2, raising=False)
    assert workers.cores() == 2
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert workers.cores() == os.cpu_count()


@pytest.mark.parametrize("label", ["roots", None])
def test_a_label_shows_progress(monkeypatch, capsys, label):
    monkeypatch.setenv("SBTUTOR_PROGRESS", "plain")
    workers.run(operator.neg, range(3), jobs=1, label=label)
    expected = "roots: 3/3, one at a time, 0 s\n" if label else ""
    assert capsys.readouterr().out == expected
