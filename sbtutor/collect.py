"""What a sweep's folder holds: its runs' states, and their rows as one table."""

import importlib.util
import io
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from sbtutor import attempts, files, jobs
from sbtutor.drive import alone, folder_of, is_finished
from sbtutor.jobs import Job
from sbtutor.sweep import SAVED, Sweep

TABLE = "table"  # .csv and, with pyarrow, .parquet
DIGITS = "%.6g"  # of committed tables; nothing measured here is known better
PRIVATE = ("root",)  # columns that tell of one computer's folders


def load(out: Path) -> Sweep:
    """The sweep that a folder holds.

    Raises:
        ValueError: it holds none, or one of another version.
    """
    if not (out / SAVED).exists():
        raise ValueError(
            f"{out} holds no sweep (no {SAVED}); begin one with: python -m "
            f"sbtutor.batch SWEEP.yaml --out {out}"
        )
    try:
        saved = Sweep.from_dict(files.read_json(out / SAVED))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{out / SAVED} is of another version ({error}); delete it, then begin the "
            "sweep again with its YAML file: finished runs are kept"
        ) from None
    if not saved.jobs:
        raise ValueError(
            f"{out / SAVED} names no runs; delete it, then begin the sweep again"
        )
    return saved


def table(out: Path, wanted: Sweep) -> pd.DataFrame:
    """The finished runs, one row each, in the sweep's order.

    Raises:
        ValueError: a damaged row; names the file.
    """
    found = [folder_of(out, job) for job in wanted.jobs if is_finished(out, job)]
    return pd.DataFrame([jobs.row(folder) for folder in found])


def write(out: Path, wanted: Sweep) -> Path:
    """Write `table.csv` and, where pyarrow is installed, `table.parquet`.

    Returns the CSV's path.
    """
    frame = table(out, wanted)
    path = out / f"{TABLE}.csv"
    files.write_bytes(path, frame.to_csv(index=False).encode())
    if importlib.util.find_spec("pyarrow"):
        content = io.BytesIO()
        frame.to_parquet(content, index=False)
        files.write_bytes(path.with_suffix(".parquet"), content.getvalue())
    return path


def publish(out: Path, wanted: Sweep, name: Path) -> None:
    """Write NAME.csv and NAME.json, a result to commit: see `results.committed`.

    Its seconds are the sum of the runs', each as if it had done alone what it shared.

    Raises:
        ValueError: no run is finished.
    """
    frame = table(out, wanted)
    if frame.empty:
        raise ValueError(f"no run of {out} is finished, so there is nothing to collect")
    last = frame.iloc[-1]
    same = ("threads", "sbtutor", "torch", "torchvision", "python")
    again = f"python -m sbtutor.batch {wanted.source} --out {out}"
    about: dict[str, Any] = {"what": wanted.what, "command": again}
    about["runs"], about["of"] = len(frame), len(wanted.jobs)
    about["seconds"] = round(float(frame["seconds"].sum()), 1)
    about["device"] = ", ".join(sorted(set(frame["device"])))
    about |= {"date": str(frame["date"].max())}
    about |= {key: getattr(last[key], "item", lambda k=key: last[k])() for key in same}
    frame = frame.drop(columns=[c for c in PRIVATE if c in frame])
    text = frame.to_csv(index=False, float_format=DIGITS)
    files.write_bytes(name.with_name(name.name + ".csv"), text.encode())
    files.write_json(name.with_name(name.name + ".json"), about)


def state(out: Path, job: Job, driven: bool) -> tuple[str, str]:
    """What a run is: finished, running, stopped, lost, failed or waiting; and details.

    Args:
        out: the sweep's folder.
        job: the run.
        driven: whether a driver works on the sweep now; without one, a run that was
            started and has no end is stopped.
    """
    if is_finished(out, job):
        return "finished", ""
    told = attempts.read(folder_of(out, job))
    if not told:
        return "waiting", ""
    last = told[-1]
    if last["event"] == "started":
        where = f"since {last['time']} on {last['host']}"
        return ("running" if driven else "stopped"), where
    return last["event"], last.get("trouble", "")


def status(out: Path, wanted: Sweep) -> str:
    """Plain lines: the counts, then every run that is neither finished nor waiting."""
    try:
        with alone(out, patience=0.0):
            driven = False
    except files.LockedError:
        driven = True
    states = {job.name: state(out, job, driven) for job in wanted.jobs}
    counts = Counter(kind for kind, _ in states.values())
    told = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    by = "a driver is at work" if driven else "no driver is at work"
    lines = [f"{wanted.what}: {len(wanted.jobs)} runs: {told}; {by}"]
    for name, (kind, details) in states.items():
        if kind not in ("finished", "waiting"):
            lines.append(f"  {name}: {kind} {details}".rstrip())
    return "\n".join(lines)
