"""Runs on a Ray cluster: one task each, on whichever node has room for it."""

import contextlib
import os
import signal
import socket
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from sbtutor import local, perform, workers
from sbtutor.attempts import Outcome

PAUSE = 0.1  # seconds to wait for a run to end
LOOK = 1.0  # seconds between two looks at the nodes
PATIENCE = 5.0  # seconds in which the cluster's head must answer
OBJECTS = 10**8  # bytes of the object store of `local`: results are a few words
# Read when ray is imported. Else nodes that die print a page of their log, and an
# address at which something else listens is tried for two minutes.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": r".|\n"}
BRIEF = {
    "RAY_NUM_REDIS_GET_RETRIES": "2",
    "RAY_py_gcs_connect_timeout_s": "5",
    "RAY_gcs_rpc_server_connect_timeout_s": "2",
}


class RayPool:
    """Executes runs on the nodes of a Ray cluster, which may come and go.

    All nodes need this interpreter and the same storage, under the same paths.
    """

    def __init__(self, address: str, threads: int, gpus: float | None = None) -> None:
        """Connects; no run starts yet.

        Args:
            address: `auto`, for the cluster of this computer's `ray start`; `local`,
                for one that is started here and ends with us; HOST:PORT of its head;
                or ray://HOST:PORT, for a computer that is not one of its nodes.
            threads: CPUs of each run.
            gpus: GPUs of each run; 0.5: two runs share one. None: 1 where nodes have
                any.

        Raises:
            ValueError: numbers out of range; ray is not installed; no cluster answers;
                no node is large enough for a run.
            ConnectionError: the cluster is gone.
        """
        local.check(None, threads, gpus)
        self.address, self.threads = address, threads
        self.ray = _import(address)
        self.head = _connect(self.ray, address, threads)
        self.running: dict[Any, str] = {}  # task -> name of the run
        self.looked, self.room = 0.0, 0
        try:
            there = self._nodes()
            if gpus is None:
                gpus = float(any(node.get("GPU", 0) for node in there))
            _check_size(there, threads, gpus, address)
        except (ValueError, ConnectionError):
            self.ray.shutdown()
            raise
        self.gpus = gpus
        # The driver of a sweep tries lost runs again, and writes down that it does.
        needs = {"num_cpus": threads, "num_gpus": gpus, "max_retries": 0}
        self.task = self.ray.remote(**needs)(carry_out)

    def free(self) -> int:
        """How many runs may be started now.

        Raises:
            ConnectionError: the cluster is gone.
        """
        self._look()
        return max(0, self.room - len(self.running))

    def start(self, folder: Path) -> None:
        """Hand a run to the cluster."""
        task = self.task.remote(str(folder.resolve()), os.getcwd(), self.gpus > 0)
        self.running[task] = folder.name

    def finished(self) -> list[Outcome]:
        """The runs that have ended since the last call; waits a moment for one.

        Raises:
            ConnectionError: the cluster is gone.
        """
        self._look()
        tasks, ended = list(self.running), []
        if tasks:
            ended, _ = self.ray.wait(tasks, num_returns=len(tasks), timeout=0)
        if not ended:
            time.sleep(PAUSE)  # not in Ray, which makes SystemExit(1) of any signal
        return [self._outcome(task) for task in ended]

    def close(self) -> None:
        """End what is running; it can be gone on with. Leave the cluster."""
        for task in self.running:
            self.ray.cancel(task, force=True)
        self.running = {}
        self.ray.shutdown()

    def _outcome(self, task: Any) -> Outcome:
        name, errors = self.running.pop(task), self.ray.exceptions
        try:
            return self.ray.get(task)
        except errors.RayTaskError as error:  # raised by what we run
            return Outcome(name, f"{type(error.cause).__name__}: {error.cause}")
        except (errors.NodeDiedError, errors.LocalRayletDiedError):
            trouble = "its node died"
        except errors.OutOfMemoryError:
            trouble = "Ray ended it: its node had too little memory"
        except errors.WorkerCrashedError:
            trouble = "its process died"
        except errors.RayError as error:
            trouble = _line(error)
        return Outcome(name, trouble, lost=True)

    def _look(self) -> None:
        """Count what fits on the nodes, now and then."""
        if time.monotonic() - self.looked < LOOK:
            return
        self.room = sum(_fits(node, self.threads, self.gpus) for node in self._nodes())
        self.looked = time.monotonic()

    def _nodes(self) -> list[dict[str, float]]:
        """The resources of each node that is alive.

        Without its head Ray would wait, and then end this process: a thread asks it.
        """
        answer: Future[list[dict[str, Any]]] = Future()
        asking = threading.Thread(target=_ask, args=(self.ray, answer), daemon=True)
        while not answer.done():
            if not _answers(*self.head):
                raise ConnectionError(
                    f"the Ray cluster at {self.address} is gone: its head does not "
                    "answer; start it again, then run the same command, what is "
                    "finished is kept"
                )
            if asking.ident is None:
                asking.start()
            with contextlib.suppress(TimeoutError):
                answer.exception(LOOK)
        return [node["Resources"] for node in answer.result() if node["Alive"]]


def carry_out(folder: str, here: str, gpu: bool) -> Outcome:
    """In a process of a node: execute a run, in the driver's working directory.

    A run that has no GPU does not see any: Ray would show it all.
    """
    for needed in (here, folder):
        if not Path(needed).is_dir():
            trouble = f"{needed} is not there: all nodes need the same storage"
            return Outcome(Path(folder).name, trouble, lost=True)
    os.chdir(here)
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    perform.log_to(Path(folder))
    return perform.perform(Path(folder))


def _ask(ray: ModuleType, answer: Future) -> None:
    try:
        answer.set_result(ray.nodes())
    except BaseException as error:  # the one who waits is told of any
        answer.set_exception(error)


def _fits(node: dict[str, float], threads: int, gpus: float) -> int:
    """How many runs a node holds."""
    cpus = int(node.get("CPU", 0) // threads)
    there = node.get("GPU", 0)
    if gpus == 0:
        return cpus
    shared = int(there) * int(1 / gpus) if gpus < 1 else int(there // gpus)
    return min(cpus, shared)


def _check_size(
    nodes: list[dict[str, float]], threads: int, gpus: float, address: str
) -> None:
    if any(_fits(node, threads, gpus) for node in nodes):
        return
    cpus, there = (max([0, *(n.get(key, 0) for n in nodes)]) for key in ("CPU", "GPU"))
    raise ValueError(
        f"each run asks for {threads} CPUs and {gpus:g} GPUs, but no node of the Ray "
        f"cluster at {address} has both (they have up to {cpus:g} CPUs and "
        f"{there:g} GPUs); write smaller --threads or --gpus, or add a node"
    )


def _import(address: str) -> ModuleType:
    for name, value in (QUIET if address == "local" else QUIET | BRIEF).items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ValueError(
            "--ray needs Ray, which is not installed: pip install 'sbtutor[cluster]'"
        ) from None
    return ray


def _connect(ray: ModuleType, address: str, threads: int) -> tuple[str, int]:
    """Join the cluster; returns the address at which it can be seen to be alive."""
    head = None if address == "local" else _head(address)
    if head and not _answers(*head):
        raise ValueError(
            f"no Ray cluster answers at {head[0]}:{head[1]} (--ray {address}); start "
            "one there with `ray start --head`, or write --ray local"
        )
    how: dict[str, Any] = {"address": address, "log_to_driver": False}
    if address == "local":
        how |= {"num_cpus": workers.cores(), "object_store_memory": OBJECTS}
        how |= {"include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        env = {"env_vars": _environment(threads)}
        ray.init(runtime_env=env, logging_level="ERROR", **how)
    except Exception as error:  # from dead ends to other versions: many kinds
        raise ValueError(
            f"cannot use the Ray cluster --ray {address}: {_line(error)}"
        ) from None
    finally:  # Ray puts its own handler there
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    return head or _split(ray.get_runtime_context().gcs_address)


def _environment(threads: int) -> dict[str, str]:
    """What processes on the nodes need to know of this one."""
    ours = {k: v for k, v in os.environ.items() if k.startswith("SBTUTOR_")}
    path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    ours["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    return ours | dict.fromkeys(workers.THREADS, str(threads))


def _head(address: str) -> tuple[str, int] | None:
    """Where a cluster should answer; None if only Ray can find out."""
    if address != "auto":
        return _split(address)
    noted = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    found = os.environ.get("RAY_ADDRESS", "")  # as Ray looks for it
    if not found and noted.exists():
        found = noted.read_text().strip()
    return _split(found) if found else None


def _split(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        port = parts.port or (10001 if parts.scheme == "ray" else None)
    except ValueError:  # a port that is no number
        parts, port = urlsplit(""), None
    if not parts.hostname or not port or parts.scheme not in ("", "ray"):
        raise ValueError(
            f"--ray {address!r} is no address: write auto, local, HOST:PORT of the "
            "cluster's head, or ray://HOST:PORT"
        )
    return parts.hostname, port


def _answers(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError:
        return False
    return True


def _line(error: BaseException) -> str:
    """An error's message in one line that is not too long."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else f"{words[:299]}…"
