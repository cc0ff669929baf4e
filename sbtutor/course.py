"""The whole course at once: `python -m sbtutor.course run`, `book`, ...

run       executes lessons with papermill, each in its own process, then makes the book
book      makes the offline HTML book of what was run (or, if nothing was, committed)
versions  writes the lessons three times, not executed: for students, with solutions,
          and for teachers, with notes too
build     for maintainers: remakes notebooks/*.ipynb from notebooks/source
"""

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from sbtutor import book, config, exercises, journal, lessons, twins
from sbtutor.workers import THREADS


def execute(source: str, out: str, preset: str, folder: str, kernels: str) -> None:
    """Run one notebook in this process: the child of `run`."""
    import papermill
    from traitlets.config import Config

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sockets = lessons.sockets(Path(kernels), Path(source).stem)
    papermill.execute_notebook(
        source,
        out,
        parameters={"preset": preset},
        kernel_name="python3",
        cwd=folder,
        progress_bar=False,
        log_output=True,  # so that the log can be followed
        store_widget_state=True,  # controls need it while running; `_report` drops it
        config=Config(KernelManager=sockets),
    )


def check_parameters(lesson: Path) -> None:
    """Refuse a lesson that papermill could not hand its preset to."""
    if "preset" not in lessons.parameters(lessons.read(lesson)):
        raise ValueError(
            f"{lesson} takes no preset: write `preset: str = ...` in a cell tagged "
            "'parameters'"
        )


def run(
    todo: Sequence[Path], out: Path, preset: str, jobs: int, folder: Path
) -> list[str]:
    """Execute notebooks in `folder`, `jobs` at a time; returns the names that failed.

    `out` gets each executed notebook and its log. Those with the most compute go first.
    """
    for lesson in todo:
        (out / lesson.name).unlink(missing_ok=True)  # no old result may pass for new
    size = {lesson: lessons.compute_minutes(lessons.read(lesson)) for lesson in todo}
    waiting = sorted(todo, key=lambda lesson: -size[lesson])
    running: dict[Path, tuple[subprocess.Popen, float]] = {}
    failed = []
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        kernels = Path(made)
        env = {**os.environ, **dict.fromkeys(THREADS, "1"), "SBTUTOR_PRESET": preset}
        env |= lessons.own_kernel(kernels) | {"SBTUTOR_TWINS": "1"}
        env.setdefault("SBTUTOR_PROGRESS", "plain")
        env["SBTUTOR_JOURNAL"] = str(kernels / journal.NAME)  # nobody's progress
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    lesson = waiting.pop(0)
                    where = [folder.resolve(), kernels]
                    running[lesson] = _start(lesson, out, preset, where, env)
                time.sleep(0.1)
                for lesson, (child, began) in list(running.items()):
                    if child.poll() is not None:
                        del running[lesson]
                        seconds = time.monotonic() - began
                        if not _report(out / lesson.name, child.returncode, seconds):
                            failed.append(lesson.stem)
        finally:
            stop([child.pid for child, _ in running.values()])
            for child, _ in running.values():
                child.wait()
    return failed


def _start(
    lesson: Path, out: Path, preset: str, where: list[Path], env: dict[str, str]
) -> tuple[subprocess.Popen, float]:
    print(f"{lesson.stem}: started", flush=True)
    call = "import sys; from sbtutor.course import execute; execute(*sys.argv[1:])"
    paths = [str(path.resolve()) for path in (lesson, out / lesson.name)]
    command = [sys.executable, "-c", call, *paths, preset, *map(str, where)]
    with (out / f"{lesson.stem}.log").open("w") as log:
        child = subprocess.Popen(
            command, env=env, stdout=log, stderr=subprocess.STDOUT, text=True,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    return child, time.monotonic()


def _report(done: Path, returncode: int, seconds: float) -> bool:
    """Say in one line how a lesson went, with the log's end if badly."""
    log = done.with_suffix(".log")
    trouble = "not even started"
    if done.exists():
        nb = lessons.read(done)
        if returncode:  # a kernel killed in the last cell leaves no other trace
            nb.metadata["failed"] = f"exit code {returncode}; did the kernel die?"
        trouble = lessons.problem(nb)
        lessons.write(lessons.without_widgets(nb), done)
    if trouble is None:
        print(f"{done.stem}: done in {seconds:.0f} s", flush=True)
        return True
    print(f"{done.stem}: FAILED after {seconds:.0f} s: {trouble}")
    last = log.read_text(errors="replace").rstrip().splitlines()[-8:]
    print("\n".join(f"    {line}" for line in last))
    print(f"    (all of it: {log})", flush=True)
    return False


def stop(pids: Sequence[int]) -> None:
    """End processes and everything that they started."""
    family = []
    for pid in pids:
        try:
            parent = psutil.Process(pid)
            family += [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    for ask in ("terminate", "kill"):
        for process in family:
            try:
                getattr(process, ask)()
            except psutil.NoSuchProcess:
                continue
        _, family = psutil.wait_procs(family, timeout=5)


def build(names: tuple[str, ...], preset: str, jobs: int, folder: Path) -> list[str]:
    """Remake committed notebooks from their sources; returns the names that failed."""
    sources = lessons.find(folder / "source", names, ("*.py",))
    os.environ["SBTUTOR_PROGRESS"] = "off"  # a committed lesson shows results only
    pictures = True
    with tempfile.TemporaryDirectory() as scratch:
        plain, done = Path(scratch, "plain"), Path(scratch, "done")
        plain.mkdir()
        for source in sources:
            nb = lessons.from_source(source)
            lessons.write(nb, plain / f"{source.stem}.ipynb")
        todo = lessons.find(plain, patterns=("*.ipynb",))
        failed = run(todo, done, preset, jobs, folder)
        for lesson in todo:
            if lesson.stem in failed:
                continue
            nb = lessons.tidy(lessons.read(done / lesson.name))
            twins.save(lessons.take_twins(nb), folder / lesson.name)
            pictures = pictures and lessons.add_pictures(nb)
            lessons.write(nb, folder / lesson.name)
            kilobytes = (folder / lesson.name).stat().st_size / 1000
            print(f"{folder / lesson.name}: written, {kilobytes:.0f} kB")
    return failed


def versions(names: tuple[str, ...], out: Path, folder: Path) -> None:
    """Write each lesson for each kind of reader, beside the files that it opens."""
    for version in exercises.VERSIONS:
        for part in ("results", "sweeps"):
            shutil.copytree(
                folder / part, out / version / part, dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("*.py", "__pycache__"),
            )  # fmt: skip
        for source in lessons.find(folder / "source", names, ("*.py",)):
            if source.stem == "teacher" and version != "teacher":
                continue
            nb = lessons.from_source(source, version)
            lessons.write(nb, out / version / f"{source.stem}.ipynb")
        print(f"{out / version}: written")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sbtutor.course",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("run", "book", "versions", "build"))
    parser.add_argument("lesson", nargs="*", help="such as 01; all if none is named")
    parser.add_argument("--preset", default="class", help="smoke, class or paper")
    parser.add_argument("--out", type=Path, help="runs/course, or runs/versions")
    parser.add_argument("--jobs", type=int, default=2, help="lessons at a time")
    parser.add_argument("--notebooks", type=Path, default=Path("notebooks"))
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {args.jobs}")
    usual = "versions" if args.command == "versions" else "course"
    args.out = args.out or Path("runs") / usual
    return args


def _leave(*_: object) -> None:
    sys.exit(143)  # 128 + SIGTERM; `finally` clauses end the children


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = _arguments(argv)
    names, failed = tuple(args.lesson), []
    signal.signal(signal.SIGTERM, _leave)
    try:
        config.preset(args.preset)  # refuses unknown names
        if args.command == "build":
            failed = build(names, args.preset, args.jobs, args.notebooks)
        elif args.command == "versions":
            versions(names, args.out, args.notebooks)
        else:
            if args.command == "run":
                todo = lessons.find(args.notebooks, names)
                for lesson in todo:
                    check_parameters(lesson)
                how = f"preset {args.preset}, {args.jobs} at a time, one thread each"
                print(f"{len(todo)} lessons -> {args.out} ({how})", flush=True)
                failed = run(todo, args.out, args.preset, args.jobs, args.notebooks)
            print(f"the book: {book.make(args.out, args.notebooks)}", flush=True)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    if failed:
        print(f"FAILED: {', '.join(sorted(failed))}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
