"""Runs on this computer: who gets which cores and GPUs."""

import pytest
import torch

from sbtutor import attempts, local, workers
from sbtutor.local import LocalPool


@pytest.fixture
def gpus(monkeypatch):
    """This many GPUs."""

    def there(count, shown=None):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if shown is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)

    return there


@pytest.mark.parametrize(
    ("count", "each", "places"),
    [
        (0, None, []),
        (3, None, ["0", "1", "2"]),
        (3, 0.0, []),
        (2, 0.5, ["0", "1", "0", "1"]),
        (5, 2.0, ["0,1", "2,3"]),
        (1, 0.3, ["0", "0", "0"]),
    ],
)
def test_runs_get_gpus_of_their_own_or_share_one(
    gpus, monkeypatch, count, each, places
):
    monkeypatch.setattr(workers, "cores", lambda: 6)
    gpus(count)
    pool = LocalPool(gpus=each)
    assert pool.places == (places or [""] * 6)
    assert pool.free() == len(pool.places)
    pool.close()


def test_gpus_that_are_hidden_stay_hidden(gpus):
    gpus(2, "3,GPU-8f")
    pool = LocalPool(gpus=1.0)
    assert pool.places == ["3", "GPU-8f"]
    pool.close()


def test_cores_are_shared(gpus, monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 7)
    gpus(0)
    pool = LocalPool(threads=2)
    assert pool.jobs == 3
    assert set(pool.env.values()) == {"2"}
    pool.close()
    pool = LocalPool(threads=20)
    assert pool.jobs == 1
    pool.close()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"jobs": 0}, "--jobs must be at least 1, got 0"),
        ({"threads": 0}, "--threads must be at least 1, got 0"),
        ({"gpus": -1}, r"--gpus must be 0, a part of 1 such as 0.5, .* got -1"),
        ({"gpus": 1.5}, r"a whole number, got 1.5"),
        ({"gpus": float("nan")}, r"a whole number, got nan"),
        ({"gpus": float("inf")}, r"a whole number, got inf"),
        ({"gpus": 3}, "each run asks for 3 GPUs, but this computer has 2; write --gp"),
        ({"jobs": 3}, "2 GPUs hold 2 runs with 1 each, so --jobs can be at most 2, g"),
    ],
)
def test_what_does_not_fit_is_refused(gpus, unchecked, given, match):
    gpus(2)
    with pytest.raises(ValueError, match=match):
        LocalPool(**given)


def test_an_ended_process_is_no_finished_run(tmp_path, unchecked):
    """The row decides, and then the run's own last word."""
    run = local.Running(tmp_path, Ended(0), "")
    assert local._outcome(run) == (
        tmp_path.name,
        "its process died (exit code 0)",
        True,
    )
    attempts.note(tmp_path, event="failed", trouble="no luck")
    assert local._outcome(run) == (tmp_path.name, "no luck", False)
    attempts.note(tmp_path, event="started")
    assert local._outcome(run).lost
    (tmp_path / "row.json").touch()
    assert local._outcome(run) == (tmp_path.name, None, False)


class Ended:
    """A process that has ended."""

    def __init__(self, exitcode):
        self.exitcode = exitcode


@pytest.mark.parametrize(
    ("code", "trouble"), [(-9, "signal 9"), (1, "exit code 1"), (143, "exit code 143")]
)
def test_a_dead_process_is_a_lost_run(tmp_path, unchecked, code, trouble):
    told = local._outcome(local.Running(tmp_path, Ended(code), ""))
    assert told == (tmp_path.name, f"its process died ({trouble})", True)
