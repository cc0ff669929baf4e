"""The doctor finds what it should, good and bad, and never crashes."""

import builtins
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest

from sbtutor import doctor

GB = 1_000_000_000


@pytest.fixture
def lacking(monkeypatch):
    """Make a module look as if it were not installed."""

    def lack(name, error=ImportError):
        real = builtins.__import__

        def without(wanted, *args, **kwargs):
            if wanted.partition(".")[0] == name:
                raise error(f"No module named {name!r}")
            return real(wanted, *args, **kwargs)

        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(builtins, "__import__", without)
        find = doctor.importlib.import_module
        monkeypatch.setattr(
            doctor.importlib,
            "import_module",
            lambda wanted: without(wanted) if wanted == name else find(wanted),
        )

    return lack


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 9), (3, 13, 1)])
def test_python_of_these_versions_is_fine(version):
    assert doctor.python(version).state == "ok"


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 14), (3, 14, 0)])
def test_another_python_is_a_problem(version):
    found = doctor.python(version)
    assert found.state == "problem"
    assert "install Python 3.11, 3.12 or 3.13" in found.advice


def test_the_packages_of_this_very_installation_are_there():
    found = doctor.packages()
    assert found.state == "ok"
    assert int(found.what.split()[1]) > 15  # the notebooks' are among them


def test_a_missing_and_an_old_package_are_named(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "papermill":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"torch": "2.10.0", "plotly": "7.0rc1"}.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = doctor.packages()
    assert found.state == "problem"
    assert found.what == "torch 2.10.0 is not >=2.11, papermill is missing"
    assert found.advice.startswith("write: python -m pip install -e")


def test_a_clone_that_is_not_installed_is_a_problem(monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    (found,) = doctor.examine([doctor.packages])
    assert (found.state, found.what) == ("problem", "sbtutor is not installed")


def test_torch_and_torchvision_are_imported():
    found = doctor.torch()
    assert found.state == "ok"
    assert "torchvision 0." in found.what


@pytest.mark.parametrize("error", [ImportError, RuntimeError])
def test_a_torchvision_that_does_not_fit_torch_is_a_problem(lacking, error):
    lacking("torchvision", error)
    found = doctor.torch()
    assert found.state == "problem"
    assert "torchvision cannot be imported (No module" in found.what
    assert "--force-reinstall torch torchvision, then" in found.advice


@pytest.mark.parametrize(
    ("cuda", "mps", "said"),
    [(True, False, "GPU: H1"), (False, True, "Apple"), (False, False, "GPU: none")],
)
def test_any_gpu_or_none_is_fine(monkeypatch, cuda, mps, said):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H1")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    found = doctor.gpu()
    assert found.state == "ok"
    assert said in found.what


def test_jupyterlab_here_has_the_extensions():
    assert doctor.labextensions().state == "ok"


def test_a_missing_extension_is_named(tmp_path):
    there = tmp_path / doctor.LABEXTENSIONS["controls"]
    there.mkdir(parents=True)
    (there / "package.json").write_text("{}")
    found = doctor.labextensions([str(tmp_path / "nowhere"), str(tmp_path)])
    assert found.state == "problem"
    assert found.what == "JupyterLab cannot show figures (jupyterlab-plotly)"
    assert "--force-reinstall ipywidgets plotly" in found.advice


def test_no_browser_is_only_noted(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor.chromium().state == "note"
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert doctor.chromium() == ("ok", "Chromium: /bin/chromium", "")


def test_fashion_mini_is_whole():
    assert doctor.fashion_mini().state == "ok"


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_or_missing_fashion_mini_is_a_problem(tmp_path, damage):
    for name in ("fashion-mini.npz", "fashion-mini.sha256"):
        content = (doctor.ASSETS / name).read_bytes()
        (tmp_path / name).write_bytes(content)
    if damage == "cut":
        whole = (tmp_path / "fashion-mini.npz").read_bytes()
        (tmp_path / "fashion-mini.npz").write_bytes(whole[:-1])
    else:
        (tmp_path / "fashion-mini.npz").unlink()
    found = doctor.fashion_mini(tmp_path)
    assert found.state == "problem"
    assert "missing or damaged" in found.what
    assert str(tmp_path) in found.advice


def test_sets_in_the_data_folder_are_named(tmp_path):
    assert doctor.data_sets(tmp_path).what.startswith("no more images")
    (tmp_path / "mine.pt").touch()
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "FashionMNIST").mkdir()
    said = doctor.data_sets(tmp_path).what
    assert said.endswith(": cifar10, cifar100, fashion-mnist, mine")


def test_a_folder_that_can_be_made_can_be_written(tmp_path):
    found = doctor.writable("runs", tmp_path / "a" / "b", "no")
    assert found == ("ok", f"runs can be written: {tmp_path / 'a' / 'b'}", "")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def read_only(monkeypatch):
    """No file can be made anywhere; even root is refused."""

    def refuse(dir):
        raise PermissionError(13, "Permission denied", dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)


def test_folders_that_cannot_be_written(read_only, monkeypatch, tmp_path):
    monkeypatch.setenv("SBTUTOR_JOURNAL", str(tmp_path / "p.json"))
    found = doctor.folders()
    assert [one.state for one in found] == ["problem", "problem", "note", "note"]
    assert all("Permission denied" in one.what for one in found)
    assert "SBTUTOR_RUNS=FOLDER" in found[1].advice
    assert "SBTUTOR_DATA=FOLDER" in found[2].advice
    assert "SBTUTOR_JOURNAL=FILE" in found[3].advice


def test_progress_that_is_off_is_noted(monkeypatch):
    monkeypatch.setenv("SBTUTOR_JOURNAL", "off")
    assert doctor.folders()[-1].what == "progress is off"


@pytest.mark.parametrize(
    ("free", "state"), [(100, "ok"), (1, "note"), (0.1, "problem"), (0, "problem")]
)
def test_a_full_disk_is_a_problem(monkeypatch, tmp_path, free, state):
    usage = namedtuple("usage", "free")(int(free * GB))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    found = doctor.disk(tmp_path / "runs")
    assert found.state == state
    assert ("needs 0.5 GB" in found.advice) == (state != "ok")


@pytest.mark.parametrize(("free", "state"), [(8, "ok"), (2, "note"), (1, "problem")])
def test_little_memory_is_a_problem(monkeypatch, free, state):
    import psutil

    usage = namedtuple("usage", "available")(free * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: usage)
    found = doctor.memory()
    assert found.state == state
    assert ("--jobs 1" in found.advice) == (state != "ok")


@pytest.mark.parametrize(("count", "state"), [(8, "ok"), (1, "note")])
def test_one_core_is_noted(monkeypatch, count, state):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(count), raising=False)
    found = doctor.cores()
    assert found.state == state
    assert found.what.startswith(f"{count} cores, ")


def test_without_torch_the_rest_is_still_looked_at(lacking):
    lacking("torch")
    found = doctor.examine()
    assert "torch cannot be imported" in found[2].what
    assert found[3] == ("note", "gpu: not looked at (No module named 'torch')", "")
    assert found[-2].what.startswith("free memory")


def test_a_check_that_fails_is_a_problem():
    def odd():
        raise OSError("no such thing")

    (found,) = doctor.examine([odd])
    assert found.state == "problem"
    assert found.what == "odd: OSError: no such thing"


def test_main_counts_the_problems(monkeypatch, capsys):
    fine = doctor.Finding("ok", "a thing")
    bad = doctor.Finding("problem", "another", "write: it, then rest")
    monkeypatch.setattr(doctor, "examine", lambda: [fine])
    assert doctor.main([]) == 0
    assert capsys.readouterr().out == "ok       a thing\n== the course can run\n"
    monkeypatch.setattr(doctor, "examine", lambda: [fine, bad])
    assert doctor.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "problem  another: write: it, then rest",
        "== 1 to solve first",
    ]
    assert doctor.main(["--json"]) == 1
    assert json.loads(capsys.readouterr().out)[1]["state"] == "problem"


def test_the_command_line():
    root = Path(__file__).parents[1]
    call = [sys.executable, "-m", "sbtutor.doctor"]
    done = subprocess.run(call, cwd=root, capture_output=True, text=True)
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert {state for state, _ in lines} <= {"ok", "note", "problem", "=="}
    problems = [what for state, what in lines if state == "problem"]
    assert done.returncode == (1 if problems else 0), done.stdout
    # What other programs may have taken just now is no fault of the command's.
    assert not [p for p in problems if not p.startswith(("free memory", "free disk"))]
    bad = subprocess.run([*call, "--jsn"], cwd=root, capture_output=True, text=True)
    assert bad.returncode == 2
    assert "--jsn" in bad.stderr
