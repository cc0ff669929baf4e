"""Run a sweep: every run of a grid, side by side, each exactly once.

    python -m sbtutor.batch SWEEP.yaml --out runs/NAME     begin, or go on
    python -m sbtutor.batch SWEEP.yaml --dry-run           only check and count
    python -m sbtutor.batch status runs/NAME
    python -m sbtutor.batch resume runs/NAME               go on; failed runs, too
    python -m sbtutor.batch collect runs/NAME              one row a run: table.csv

Each run is the notebook `10_full_scale.ipynb`, executed by papermill in a folder of its
own. Finished runs are skipped, broken ones go on from their checkpoint: Ctrl-C, a kill
or a lost computer cost an epoch of the runs in progress, and nothing else.
"""

import argparse
import contextlib
import itertools
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sbtutor import attempts, collect, cost, drive, sweep
from sbtutor.sweep import Sweep

LESSON = Path("notebooks") / "10_full_scale.ipynb"
COMMANDS = ("run", "status", "resume", "collect")
SHOWN = 8  # values of an axis that a dry run prints
TOLD = 128 + signal.SIGTERM  # exit code of a driver that is told to end


def make_pool(args: argparse.Namespace) -> drive.Pool:
    """Processes on this computer, or a Ray cluster."""
    if args.ray is None:
        from sbtutor.local import LocalPool

        return LocalPool(args.jobs, args.threads, args.gpus)
    from sbtutor.cluster import RayPool

    return RayPool(args.ray, args.threads, args.gpus)


def run(wanted: Sweep, args: argparse.Namespace) -> int:
    """Begin a sweep, or go on with it; returns the exit code."""
    from sbtutor import perform  # papermill and nbformat take a second

    again = args.command == "resume"
    if not again and not args.lesson.exists():
        raise ValueError(
            f"there is no {args.lesson}; run this from the repository's root, or name "
            "the notebook with --lesson"
        )
    sweep.ready(wanted, here=args.ray is None)
    closing = contextlib.closing  # the second closes before others may begin
    with closing(make_pool(args)) as pool, drive.alone(args.out), closing(pool):
        if not again:
            perform.prepare(args.out, wanted, args.lesson)
        print(f"{wanted.what}: {len(wanted.jobs)} runs -> {args.out}", flush=True)
        failed = drive.work(args.out, wanted, pool, args.retries)
        print(f"the table: {collect.write(args.out, wanted)}", flush=True)
    for outcome in failed:
        log = args.out / "jobs" / outcome.name / attempts.LOG
        print(f"FAILED: {outcome.name}: {outcome.trouble} ({log})", file=sys.stderr)
    return 1 if failed else 0


def plan(wanted: Sweep, out: Path | None, tflops: float | None) -> str:
    """What a sweep would do and cost, in plain lines."""
    count = len(wanted.jobs)
    lines = [wanted.what, f"{count} runs of study {wanted.study!r}"]
    if wanted.combinations != count:
        lines[-1] += f" ({wanted.combinations} combinations, some of them the same run)"
    lines[-1] += f", preset {wanted.preset}"
    for name, values in wanted.axes.items():
        more = f", ... ({len(values)})" if len(values) > SHOWN else ""
        lines.append(f"  {name}: {', '.join(map(str, values[:SHOWN]))}{more}")
    todo = wanted.jobs
    if out is not None:
        todo = [job for job in wanted.jobs if not drive.is_finished(out, job)]
        lines.append(f"{count - len(todo)} of them are finished in {out}")
    lines += relatives(wanted)
    lines.append(price(wanted, [job.name for job in todo], tflops))
    return "\n".join(lines)


def relatives(wanted: Sweep) -> list[str]:
    """A line of warning if ensembles of different seeds share members."""
    if wanted.study != "ensemble":
        return []
    seeds = sorted({job.experiment.train.seed for job in wanted.jobs})
    members = max(job.experiment.train.members for job in wanted.jobs)
    return [
        f"note: ensembles of seeds {a} and {b} share members, as member m takes seed "
        "+ m; they are no independent repeats"
        for a, b in itertools.pairwise(seeds)
        if b - a < members
    ][:1]


def price(wanted: Sweep, names: Sequence[str], tflops: float | None) -> str:
    """What runs of a sweep cost, in one line: operations, hours, and at which rate."""
    flops = drive.flops(wanted)
    total = sum(flops[name] for name in names)
    rate = cost.assumed_rate(wanted.jobs[0].experiment.train, wanted.preset)
    hours = cost.hours(total, tflops or rate.tflops)
    if tflops is not None:
        how = f"at {tflops:g} TFLOP/s, as given"
    else:
        measure = "small networks do less: measure with benchmarks/gpu.py"
        if rate.device != "GPU":
            measure = "measure by the FLOP of a run and its seconds"
        how = (
            f"if a {rate.device} sustains {rate.tflops:g} TFLOP/s, an assumption; "
            f"{measure}, and give --tflops"
        )
    took = drive.spoken(3600 * hours) if hours < 10 else f"{hours:,.0f} h"
    unknown = sum(flops[name] == 0 for name in names)
    less = f"; {unknown} runs not counted, as they cannot be here" if unknown else ""
    return f"cost: {total:.2g} FLOP, {took} of one {rate.device}, {how}{less}"


def dry_run(wanted: Sweep, args: argparse.Namespace) -> int:
    """Say what would be done; what is missing is told and no error."""
    print(plan(wanted, args.out, args.tflops))
    try:
        sweep.ready(wanted, here=args.ray is None)
        print("data and devices: all there")
    except ValueError as error:
        print(f"not ready: {error}")
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sbtutor.batch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help="run may be left out")
    parser.add_argument("path", type=Path, help="SWEEP.yaml, or a sweep's folder")
    parser.add_argument("--out", type=Path, help="the folder of a sweep that is run")
    parser.add_argument("--jobs", type=int, help="runs at a time; else as many as fit")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run")
    parser.add_argument("--gpus", type=float, help="GPUs of a run; 0.5: two share one")
    parser.add_argument("--ray", help="auto, local, or a Ray cluster's HOST:PORT")
    parser.add_argument("--retries", type=int, default=2, help="of runs that are lost")
    parser.add_argument("--dry-run", action="store_true", help="start nothing")
    parser.add_argument("--tflops", type=float, help="measured rate, for --dry-run")
    parser.add_argument("--to", type=Path, help="collect: NAME of .csv and .json too")
    parser.add_argument("--lesson", type=Path, default=LESSON, help="their notebook")
    words = list(argv)
    if words and words[0] not in (*COMMANDS, "-h", "--help"):
        words.insert(0, "run")
    args = parser.parse_args(words)
    if args.command != "run":
        args.out = args.path
    elif args.out is None and not args.dry_run:
        parser.error("say where the runs are kept: --out runs/NAME")
    if args.retries < 0:
        parser.error(f"--retries must be 0 or more, got {args.retries}")
    if args.tflops is not None and not args.tflops > 0:
        parser.error(f"--tflops must be positive, got {args.tflops:g}")
    if args.ray is not None and args.jobs is not None:
        parser.error("--jobs is for this computer; a cluster runs as many as fit")
    return args


def _obey(args: argparse.Namespace) -> int:
    begins = args.command == "run"
    wanted = sweep.read(args.path) if begins else collect.load(args.out)
    if args.command == "status":
        print(collect.status(args.out, wanted))
        return 0
    if args.command == "collect":
        print(collect.write(args.out, wanted))
        if args.to:
            collect.publish(args.out, wanted, args.to)
        return 0
    return dry_run(wanted, args) if args.dry_run else run(wanted, args)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 1 if runs failed, 2 if asked wrongly."""
    args = _arguments(sys.argv[1:] if argv is None else argv)
    told = []

    def leave(*_: object) -> None:
        told.append(True)
        sys.exit(TOLD)  # `finally` clauses end the runs

    before = signal.signal(signal.SIGTERM, leave)
    try:
        return _obey(args)
    except (ValueError, OSError) as error:  # asked wrongly, or a full disk, a lost net
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except SystemExit:
        if told:  # Ray writes another code over ours
            sys.exit(TOLD)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
