"""Can the course run on this computer? `python -m sbtutor.doctor` looks, and advises.

Nothing heavy is imported before it is looked at, so that what is missing can be told.
"""

import argparse
import hashlib
import importlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

PYTHONS = ((3, 11), (3, 14))  # from, to below
INSTALL = "write: python -m pip install -e '.[notebooks,test]'"
AGAIN = "then run this again"
LABEXTENSIONS = {
    "controls": "@jupyter-widgets/jupyterlab-manager",
    "figures": "jupyterlab-plotly",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SETS = {  # where torchvision, and TinyImageNet's own archive, put them
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz"),
    "fashion-mnist": ("FashionMNIST",),
    "tiny-imagenet": ("tiny-imagenet-200", "tiny-imagenet-200.zip"),
}
RUNS = Path(os.environ.get("SBTUTOR_RUNS", "runs"))
ASSETS = Path(__file__).with_name("assets")
# A lesson at preset class grows to about 1 GB (measured: 0.8 GB of imports, 0.15 GB of
# training), and `make course` runs two; all runs of the course need under 0.3 GB.
GB = 1e9
MEMORY = (1.2 * GB, 3 * GB)
DISK = (0.5 * GB, 2 * GB)


class Finding(NamedTuple):
    """What was found; `state` is ok, note (the course runs) or problem."""

    state: str
    what: str
    advice: str = ""

    def line(self) -> str:
        """The finding in one line."""
        said = f"{self.what}: {self.advice}" if self.advice else self.what
        return f"{self.state:<8} {said}"


def python(version: Sequence[int] = sys.version_info) -> Finding:
    """Is it a Python that the course runs on?"""
    what = f"Python {version[0]}.{version[1]}"
    if PYTHONS[0] <= tuple(version[:2]) < PYTHONS[1]:
        return Finding("ok", what)
    advice = "install Python 3.11, 3.12 or 3.13, remove .venv, then write: make course"
    return Finding("problem", what, advice)


def packages() -> Finding:
    """Is all there that the course depends on, and new enough?"""
    from packaging.requirements import Requirement

    try:
        depends = importlib.metadata.requires("sbtutor") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder, as it came
        return Finding("problem", "sbtutor is not installed", f"{INSTALL}, {AGAIN}")
    wrong, count = [], 0
    for line in depends:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": "notebooks"}):
            continue
        count += 1
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} {found} is not {wanted.specifier}")
    if wrong:
        return Finding("problem", ", ".join(wrong), f"{INSTALL}, {AGAIN}")
    return Finding("ok", f"all {count} packages are there")


def torch() -> Finding:
    """Do torch and torchvision fit together?"""
    found = []
    for name in ("torch", "torchvision"):
        try:
            found.append(f"{name} {importlib.import_module(name).__version__}")
        except Exception as error:  # one built for another torch raises many kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            advice = f"{INSTALL} --force-reinstall torch torchvision, {AGAIN}"
            return Finding("problem", f"{name} cannot be imported ({reason})", advice)
    return Finding("ok", " and ".join(found))


def gpu() -> Finding:
    """Which device would be used?"""
    import torch

    if torch.cuda.is_available():
        return Finding("ok", f"GPU: {torch.cuda.get_device_name()}")
    if torch.backends.mps.is_available():
        advice = "presets smoke and class run on the CPU; device='mps' uses it"
        return Finding("ok", "GPU: Apple's (mps)", advice)
    advice = "fine for presets smoke and class; preset paper wants one"
    return Finding("ok", "GPU: none", advice)


def labextensions(folders: Sequence[str] | None = None) -> Finding:
    """Can JupyterLab show controls and figures?"""
    if folders is None:
        from jupyter_core.paths import jupyter_path

        folders = jupyter_path("labextensions")
    missing = [
        f"{what} ({name})"
        for what, name in LABEXTENSIONS.items()
        if not any(Path(folder, name, "package.json").exists() for folder in folders)
    ]
    if missing:
        what = f"JupyterLab cannot show {' and '.join(missing)}"
        again = f"{INSTALL} --force-reinstall ipywidgets plotly, then reload the page"
        return Finding("problem", what, again)
    return Finding("ok", "JupyterLab shows controls and figures")


def chromium() -> Finding:
    """Is there a browser to draw still pictures and to test with?"""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found:
        return Finding("ok", f"Chromium: {found}")
    advice = (
        "only still pictures and browser tests need it; on Debian or Ubuntu write: "
    )
    return Finding("note", "Chromium: none", f"{advice}apt install chromium")


def fashion_mini(folder: Path = ASSETS) -> Finding:
    """Are the embedded images what they should be?"""
    try:
        content = (folder / "fashion-mini.npz").read_bytes()
        wanted = (folder / "fashion-mini.sha256").read_text().split()[0]
    except OSError as error:
        wanted, content = "", str(error).encode()
    if hashlib.sha256(content).hexdigest() == wanted:
        return Finding("ok", "fashion-mini: 10,000 images, whole")
    what = f"fashion-mini in {folder} is missing or damaged"
    return Finding("problem", what, f"write: git checkout {folder}, {AGAIN}")


def data_sets(root: Path | None = None) -> Finding:
    """Which other images lie in the data folder?"""
    from sbtutor import cache

    root = cache.root(root)
    found = set(cache.names(root))
    for name, places in SETS.items():
        found |= {name} if any((root / place).exists() for place in places) else set()
    if found:
        return Finding("ok", f"more images in {root}: {', '.join(sorted(found))}")
    advice = "preset class needs none; CIFAR-10 is downloaded when first asked for, or "
    advice += "write: python -m sbtutor.data import ARCHIVE --name cifar10"
    return Finding("ok", f"no more images in {root}", advice)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that there is."""
    folder = folder.expanduser().absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def writable(what: str, folder: Path, remedy: str, need: str = "problem") -> Finding:
    """Can files be made in a folder, or can it be made?"""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return Finding("ok", f"{what} can be written: {folder}")
    except OSError as error:
        reason = error.strerror or error
        return Finding(need, f"{what} cannot be written: {folder} ({reason})", remedy)


def folders() -> list[Finding]:
    """May the course write where it wants to?"""
    here = writable("this folder", Path(), "go to a folder of your own, with cd")
    remedy = "write: export SBTUTOR_RUNS=FOLDER, with a folder of your own"
    found = [here, writable("folder of runs", RUNS, remedy)]
    from sbtutor import cache, journal

    remedy = remedy.replace("RUNS", "DATA") + "; else no set can be imported"
    found.append(writable("folder of data", cache.root(None), remedy, "note"))
    kept = journal.path()
    if kept is None:
        return [*found, Finding("note", "progress is off", "unset SBTUTOR_JOURNAL")]
    remedy = "write: export SBTUTOR_JOURNAL=FILE; else your progress is not kept"
    return [*found, writable("progress file's folder", kept.parent, remedy, "note")]


def _enough(what: str, free: int, bounds: tuple[float, float], how: str) -> Finding:
    least, good = bounds
    said = f"{what}: {free / GB:.1f} GB"
    if free >= good:
        return Finding("ok", said)
    wants = (
        f"the course needs {least / GB:g} GB, and {good / GB:g} GB are better; {how}"
    )
    return Finding("note" if free >= least else "problem", said, wants)


def disk(folder: Path = RUNS) -> Finding:
    """Is there room for runs?"""
    free = shutil.disk_usage(_existing(folder)).free
    how = "remove files, or write: export SBTUTOR_RUNS=FOLDER, on another disk"
    return _enough(f"free disk for {folder}", free, DISK, how)


def memory() -> Finding:
    """Is there memory for a lesson, or for two?"""
    import psutil

    how = "close other programs, and write: python -m sbtutor.course run --jobs 1"
    return _enough("free memory", psutil.virtual_memory().available, MEMORY, how)


def cores() -> Finding:
    """How many cores and threads are there to compute with?"""
    import torch

    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    count = len(allowed(0)) if allowed else os.cpu_count() or 1
    said = f"{count} cores, {torch.get_num_threads()} threads"
    if count >= 2:
        return Finding("ok", said)
    return Finding("note", said, "lessons take twice the time they name")


CHECKS: tuple[Callable[[], "Finding | list[Finding]"], ...] = (
    *(python, packages, torch, gpu, labextensions, chromium),
    *(fashion_mini, data_sets, folders, disk, memory, cores),
)


def examine(checks: Sequence[Callable] = CHECKS) -> list[Finding]:
    """All findings. A check that itself fails is one, too."""
    findings = []
    for check in checks:
        try:
            found = check()
        except ImportError as error:  # a problem that `packages` tells, with advice
            found = Finding("note", f"{check.__name__}: not looked at ({error})")
        except Exception as error:
            said = f"{check.__name__}: {type(error).__name__}: {error}"
            found = Finding("problem", said, f"{INSTALL}, {AGAIN}")
        findings += found if isinstance(found, list) else [found]
    return findings


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 if the course can run at preset class, 1 if not."""
    parser = argparse.ArgumentParser("python -m sbtutor.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    args = parser.parse_args(argv)
    findings = examine()
    problems = sum(finding.state == "problem" for finding in findings)
    if args.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=1))
    else:
        print("\n".join(finding.line() for finding in findings))
        told = f"{problems} to solve first" if problems else "the course can run"
        print(f"== {told}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
