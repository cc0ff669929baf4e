"""What several runs at a time gain over several threads; what a sweep adds to a run.

    python benchmarks/jobs.py [--repeats 2] [--epochs 12] [--seeds 4]

A small sweep of deep ensembles (ResNet-8 of width 8, 2,000 fashion-mini images of 14x14
pixels) through the command line, its start included: as many runs at a time as there
are cores, one thread each, against one run at a time with that many threads. The ratio
is of their times, above 1 where several runs at a time are faster: at most the number
of cores. Then what a sweep adds to a run: the seconds from its start to the next one's,
one at a time, less those of a plain Python process that does the same run; and the
driver's own share of them, from a run's end to the next one's start. Run it on a
computer that does nothing else.
"""

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from turns import in_turns

from sbtutor import attempts, jobs, workers

LESSON = Path(__file__).parents[1] / "notebooks" / "10_full_scale.ipynb"
SMALL = {"limit": 2000, "size": 14, "model": "resnet8", "width": 8}
PLAIN = """
import json, sys
from sbtutor import jobs

path, folder = sys.argv[1:]
jobs.run(jobs.job(**json.load(open(path))), folder)
"""


def sweep(folder: Path, epochs: int, seeds: int) -> Path:
    """The YAML file."""
    content = {
        "what": "deep ensembles by seed",
        "preset": "class",
        "settings": SMALL | {"epochs": epochs},
        "grid": {"seed": list(range(0, 10 * seeds, 10))},
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content))
    return folder / "sweep.yaml"


def driven(path: Path, count: int, threads: int) -> Path:
    """Run the whole sweep in a new folder; returns it."""
    out = Path(tempfile.mkdtemp(dir=path.parent))
    command = [sys.executable, "-m", "sbtutor.batch", path, "--out", out]
    command += ["--lesson", LESSON, "--jobs", count, "--threads", threads]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    return out


def times(out: Path) -> list[float]:
    """When the runs started and ended, in seconds; one after the other."""
    found = []
    for folder in (out / "jobs").iterdir():
        for line in attempts.read(folder):
            found.append(datetime.datetime.fromisoformat(line["time"]).timestamp())
    return sorted(found)


def plain(out: Path, threads: int) -> list[float]:
    """Seconds of plain processes that do the same runs, in other folders."""
    env = os.environ | dict.fromkeys(workers.THREADS, str(threads))
    env["SBTUTOR_PROGRESS"] = "off"
    took = []
    for folder in sorted((out / "jobs").iterdir()):
        words = [sys.executable, "-c", PLAIN, folder / jobs.JOB, out / folder.name]
        start = time.perf_counter()
        subprocess.run(list(map(str, words)), check=True, env=env)
        took.append(time.perf_counter() - start)
    return took


def main() -> None:
    """Time both ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=4)
    given = parser.parse_args()
    cores = workers.cores()
    with tempfile.TemporaryDirectory() as folder:
        path = sweep(Path(folder), given.epochs, given.seeds)
        timed = in_turns(
            lambda: driven(path, 1, cores),
            lambda: driven(path, cores, 1),
            given.repeats,
        )
        print(
            f"{given.seeds} runs: {timed.theirs:.1f} s one at a time with {cores} "
            f"threads, {timed.ours:.1f} s with {cores} at a time; {timed}"
        )
        at = times(timed.values[0])
        whole = statistics.median(b - a for a, b in zip(at[::2], at[2::2]))
        driver = statistics.median(b - a for a, b in zip(at[1::2], at[2::2]))
        bare = statistics.median(plain(timed.values[0], cores))
        print(
            f"a run: {whole:.1f} s in the sweep, {bare:.1f} s in a plain process: the "
            f"sweep adds {whole - bare:.1f} s, of that the driver {driver:.2f} s"
        )


if __name__ == "__main__":
    main()
