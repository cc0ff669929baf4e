"""What several runs at a time gain over several threads, and what a run costs beside.

    python benchmarks/jobs.py [--repeats 2] [--epochs 12] [--seeds 4]

A small sweep of deep ensembles (ResNet-8 of width 8, 2,000 fashion-mini images of 14x14
pixels) through the command line, its start included: as many runs at a time as there
are cores, one thread each, against one run at a time with that many threads. The ratio
is of their times, above 1 where several runs at a time are faster: at most the number
of cores. Then what a run takes beside its training and measuring, in seconds: kernel,
imports, papermill, and the driver's share of it, which is the time between two runs.
Run it on a computer that does nothing else.
"""

import argparse
import datetime
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from turns import in_turns

from sbtutor import attempts, jobs, workers

LESSON = Path(__file__).parents[1] / "notebooks" / "10_full_scale.ipynb"
SMALL = {"limit": 2000, "size": 14, "model": "resnet8", "width": 8}


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


def beside(out: Path) -> list[float]:
    """Seconds of each run beside its training and measuring."""
    found = []
    for folder in (out / "jobs").iterdir():
        last = attempts.read(folder)[-1]
        found.append(last["seconds"] - jobs.row(folder)["seconds"])
    return found


def between(out: Path) -> list[float]:
    """Seconds from a run's end to the next one's start; one at a time."""
    told = [
        line for folder in (out / "jobs").iterdir() for line in attempts.read(folder)
    ]
    at = sorted(datetime.datetime.fromisoformat(line["time"]) for line in told)
    return [(b - a).total_seconds() for a, b in zip(at[1::2], at[2::2])]


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
        one = timed.values[0]
        print(
            f"{given.seeds} runs: {timed.theirs:.1f} s one at a time with {cores} "
            f"threads, {timed.ours:.1f} s with {cores} at a time; {timed}"
        )
        print(
            f"beside training and measuring: {statistics.median(beside(one)):.1f} s a "
            f"run, of that the driver {statistics.median(between(one)):.2f} s"
        )


if __name__ == "__main__":
    main()
