"""Sweeps on a Ray cluster: nodes and drivers die, the table stays the same."""

import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from types import ModuleType, SimpleNamespace

import pandas as pd
import psutil
import pytest
import sweeps

from sbtutor import attempts, batch, cluster, course, jobs
from sbtutor.workers import cores

ray = pytest.importorskip("ray")

GRID = {"method": ["sgd", "sam", "sharpbalance"]}
SETTINGS = sweeps.TINY | {"epochs": 60, "milestones": [40], "warmup_epochs": 20}
ENDLESS = sweeps.TINY | {"epochs": 10**5}
MEMORY = 80 * 2**20  # bytes, nearly the least that Ray takes
PATIENCE = 240  # seconds: each new process imports torch, beside other tests perhaps


@pytest.fixture(autouse=True)
def environment():
    """Ray is told how to behave by the environment: give it back."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def add_node(there, tries=3):
    """One more. Ray gives it 30 s to start, too few beside many other processes."""
    how = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
    try:
        there.add_node(**how)
    except Exception as error:
        if tries == 1 or "timed out during startup" not in str(error):
            raise
        add_node(there, tries - 1)


@pytest.fixture(scope="module")
def nodes():
    """A cluster of three nodes on this computer, one CPU each."""
    from ray.cluster_utils import Cluster

    scratch = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets need short paths
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_TMPDIR", scratch)
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray leaves a token in ~/.ray
    there = Cluster()
    try:
        for _ in range(3):
            add_node(there)
        yield there
    finally:
        there.shutdown()
        patch.undo()
        shutil.rmtree(scratch, ignore_errors=True)


def sweep(folder, settings, grid):
    """Its YAML file, and the words that run it."""
    path = sweeps.write(folder / "s.yaml", settings, grid)
    lesson, out = sweeps.lesson(folder / "l.ipynb"), folder / "out"
    return out, [path, "--out", out, "--lesson", lesson]


def told(out):
    """Each run's attempts."""
    return {folder.name: attempts.read(folder) for folder in (out / "jobs").iterdir()}


def at_work(out):
    """Pids of the processes whose run has a checkpoint and has not ended."""
    found = []
    for checkpoint in out.glob("jobs/*/run/checkpoint.pt"):
        folder = checkpoint.parents[1]
        last = attempts.read(folder)[-1]
        if last["event"] == "started" and not (folder / jobs.ROW).exists():
            found.append(last["pid"])
    return found


def working_node(nodes, out):
    """A node, not the driver's, that is in the midst of a run."""
    for pid in at_work(out):
        if psutil.pid_exists(pid):
            raylet = psutil.Process(pid).ppid()
            for node in nodes.worker_nodes:
                if node.all_processes["raylet"][0].process.pid == raylet:
                    return node
    return None


def first_of(look):
    """The first result that is not empty."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.05)
    return pytest.fail("nothing came in time")


@pytest.fixture
def driver():
    """Start a driver; none outlives the test."""
    with contextlib.ExitStack() as stack:

        def start(*words):
            process = stack.enter_context(sweeps.start(*words))
            stack.callback(course.stop, [process.pid])
            return process

        yield start


def test_a_node_dies_and_the_table_is_the_same(tmp_path, nodes, driver, quiet):
    """As that of an undisturbed run on this computer; nothing is finished twice."""
    out, words = sweep(tmp_path, SETTINGS, GRID)
    process = driver(*words, "--ray", nodes.address)
    dying = first_of(lambda: working_node(nodes, out))
    nodes.remove_node(dying, allow_graceful=False)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert "lost: its node died; again" in said
    assert "raylet" not in said  # not a page of a dead node's log
    for lines in told(out).values():
        events = [line["event"] for line in lines]
        assert events.count("finished") == 1
        assert events[-1] == "finished"

    words[words.index(out)] = alone = tmp_path / "alone"
    assert batch.main([*map(str, words), "--jobs", "2"]) == 0
    expected = sweeps.table(alone)
    assert len(expected) == 3
    pd.testing.assert_frame_equal(sweeps.table(out), expected, check_exact=True)


FATAL = """
import psutil, time

if settings.get("seed") == 10:
    driver = psutil.Process().parent().parent().parent()  # of our worker, of its node
    [head] = [child for child in driver.children() if child.name() == "gcs_server"]
    head.kill()
    time.sleep(600)
"""


def test_a_cluster_of_our_own_and_its_end(tmp_path, driver, quiet, monkeypatch):
    """The first run is finished; the second ends the cluster's head, and is ended."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # as for nodes
    out, words = sweep(tmp_path, sweeps.TINY, {"seed": [0, 10]})
    sweeps.lesson(tmp_path / "l.ipynb", FATAL)
    for _ in range(3):
        process = driver(*words, "--ray", "local", "--threads", cores())  # one by one
        said, _ = process.communicate(timeout=PATIENCE)
        if "timed out during startup" not in said:  # see add_node
            break
    assert process.returncode == 1, said
    assert "\nerror: the Ray cluster at local is gone: its head does not a" in said
    one, two = sorted(told(out).items())
    assert [line["event"] for line in one[1]] == ["started", "finished"]
    assert [line["event"] for line in two[1]] == ["started"]
    assert sweeps.eventually(lambda: not psutil.pid_exists(two[1][0]["pid"]))


@pytest.fixture
def pool(nodes):
    """On the cluster that this computer was the last to start, in this process."""
    with contextlib.closing(cluster.RayPool("auto", 1, 0.0)) as pool:
        yield pool


# Ray leaves its own log files and pipes to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_folder_that_a_node_lacks_is_a_lost_run(tmp_path, pool):
    free = pool.free()
    assert free == len(pool.ray.nodes()) - sum(not n["Alive"] for n in pool.ray.nodes())
    folders = [tmp_path / "none", tmp_path / "empty"]
    folders[1].mkdir()
    for folder in folders:
        pool.start(folder)
    assert pool.free() == free - 2
    ended = []
    assert sweeps.eventually(lambda: ended.extend(pool.finished()) or len(ended) == 2)
    lacking = [f"{tmp_path}/none", f"{tmp_path}/empty/job.json"]
    for outcome, path in zip(sorted(ended, key=lambda o: o.name), sorted(lacking)):
        assert outcome.lost
        assert f"{path} is not there" in outcome.trouble
    assert pool.free() == free
    assert pool.finished() == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (["--gpus", "1"], r"asks for 1 CPUs and 1 GPUs, but no .* CPUs and 0 GPUs\)"),
        (["--gpus", "0.5"], "asks for 1 CPUs and 0.5 GPUs, but no node of the Ray clu"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--threads", "3"], r"asks for 3 CPUs and 0 GPUs, but no .*up to 1 CPUs and "),
    ],
)
def test_what_no_node_has_is_refused(tmp_path, nodes, capsys, asked, match):
    refused(tmp_path, capsys, match, "--ray", nodes.address, *asked)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_driver_that_is_told_to_end_ends_its_runs(tmp_path, nodes, quiet):
    """With its own exit status, though Ray would make it 1."""
    out, words = sweep(tmp_path, ENDLESS, {"seed": [0]})
    family = []

    def tell():
        try:
            family.append(psutil.Process(first_of(lambda: at_work(out))[0]))
            family.extend(family[0].children(recursive=True))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    teller = threading.Thread(target=tell)
    teller.start()
    with pytest.raises(SystemExit) as end:
        batch.main([*map(str, words), "--ray", nodes.address])
    teller.join()
    assert end.value.code == 143
    assert len(family) >= 2  # a worker of Ray's and its kernel
    assert psutil.wait_procs(family, timeout=30)[1] == []


def refused(folder, capsys, match, *asked):
    """One line says why; nothing was started."""
    out, words = sweep(folder, sweeps.TINY, {"seed": [0]})
    assert batch.main([*map(str, words), *asked]) == 2
    said = capsys.readouterr()
    assert re.search(match, said.err)
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not out.exists()


def test_a_head_that_dies_while_it_is_asked_is_gone(monkeypatch):
    """Ray would wait a minute, and then end the process."""
    never, answers = threading.Event(), iter([True, True, False])
    monkeypatch.setattr(cluster, "_answers", lambda *head: next(answers))
    monkeypatch.setattr(cluster, "LOOK", 0.01)
    pool = object.__new__(cluster.RayPool)
    pool.address, pool.head, pool.looked = "auto", ("127.0.0.1", 1), 0.0
    pool.ray = ModuleType("ray")
    pool.ray.nodes = never.wait
    try:
        with pytest.raises(ConnectionError, match="cluster at auto is gone: its head"):
            pool.free()
        assert next(answers, "asked until it was gone") == "asked until it was gone"
    finally:
        never.set()


def test_what_ray_says_of_its_nodes_comes_through(monkeypatch):
    monkeypatch.setattr(cluster, "_answers", lambda *head: True)
    pool = object.__new__(cluster.RayPool)
    pool.head, pool.ray = ("127.0.0.1", 1), ModuleType("ray")
    pool.ray.nodes = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        pool._nodes()
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False}]
    pool.ray.nodes = lambda: nodes
    assert pool._nodes() == [{"CPU": 2.0}]


@pytest.fixture
def unused():
    """An address of this computer at which nothing listens, nor can anything else."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("how", ["{}", "ray://{}", "auto", "auto, noted"])
def test_an_address_without_a_cluster_is_refused(
    tmp_path, capsys, monkeypatch, how, unused
):
    address = unused
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if how == "auto":
        monkeypatch.setenv("RAY_ADDRESS", address)
    elif how == "auto, noted":
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
    asked = how.format(address).partition(",")[0]
    match = rf"no Ray cluster answers at {address} \(--ray {asked}\); start one there"
    refused(tmp_path, capsys, match, "--ray", asked)


@pytest.mark.parametrize("address", ["nowhere", "host:port", "http://host:1", ":6379"])
def test_what_is_no_address_is_refused(tmp_path, capsys, address):
    match = f"--ray '{address}' is no address: write auto, local, HOST:PORT of the"
    refused(tmp_path, capsys, match, "--ray", address)


def test_ray_that_refuses_is_quoted_in_one_line(tmp_path, capsys, monkeypatch):
    """Another version of Python or Ray on the cluster, say."""

    def refuse(**_):
        raise RuntimeError(
            "Version mismatch:\n  the cluster: Ray 2.40\n" + 99 * "more "
        )

    monkeypatch.setattr(ray, "init", refuse)
    match = (
        r"cannot use .*--ray local: Version mismatch: the cluster: Ray 2.40 more .*…"
    )
    refused(tmp_path, capsys, match, "--ray", "local")


def test_without_ray_the_message_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(tmp_path, capsys, r"pip install 'sbtutor\[cluster\]'$", "--ray", "auto")


def failed(kind):
    """An error of Ray's, made as it makes them."""
    if kind == "RayTaskError":
        return ray.exceptions.RayTaskError("carry_out", "a traceback", OSError("full"))
    says = {"RaySystemError": ["no room\nleft"], "OutOfMemoryError": ["a page"]}
    says["NodeDiedError"] = ["a page"]
    return getattr(ray.exceptions, kind)(*says.get(kind, []))


@pytest.mark.parametrize(
    ("kind", "trouble", "lost"),
    [
        ("RayTaskError", "OSError: full", False),
        ("NodeDiedError", "its node died", True),
        ("WorkerCrashedError", "its process died", True),
        ("OutOfMemoryError", "Ray ended it: its node had too little memory", True),
        ("RaySystemError", "System error: no room left", True),
        ("TaskCancelledError", "TaskCancelledError", True),
    ],
)
def test_the_outcome_says_whether_another_try_may_help(kind, trouble, lost):
    def get(task):
        raise failed(kind)

    pool = object.__new__(cluster.RayPool)
    pool.ray = SimpleNamespace(exceptions=ray.exceptions, get=get)
    pool.running = {"task": "sam-seed0"}
    outcome = pool._outcome("task")
    assert outcome.name == "sam-seed0"
    assert outcome.trouble.startswith(trouble)
    assert outcome.lost is lost
    assert pool.running == {}


@pytest.mark.parametrize(
    ("node", "threads", "gpus", "expected"),
    [
        ({"CPU": 4.0}, 1, 0.0, 4),
        ({"CPU": 4.0}, 3, 0.0, 1),
        ({"CPU": 4.0}, 1, 1.0, 0),
        ({"CPU": 16.0, "GPU": 4.0}, 2, 1.0, 4),
        ({"CPU": 16.0, "GPU": 4.0}, 1, 0.5, 8),
        ({"CPU": 16.0, "GPU": 4.0}, 1, 0.4, 8),
        ({"CPU": 16.0, "GPU": 4.0}, 8, 0.5, 2),
        ({"CPU": 16.0, "GPU": 5.0}, 1, 2.0, 2),
        ({}, 1, 0.0, 0),
    ],
)
def test_a_node_holds_so_many_runs(node, threads, gpus, expected):
    assert cluster._fits(node, threads, gpus) == expected
