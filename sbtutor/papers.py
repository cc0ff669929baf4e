"""The papers' numbers beside ours; what is not run yet, and what it would cost.

`notebooks/results/papers.csv` has a row for each number of a paper. NAME.csv and
NAME.json beside it are the collected table of the sweep NAME, once it has been run.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from sbtutor import cost, drive, files, results, sweep
from sbtutor.counted import COUNTED
from sbtutor.results import Interval

MINI = "-mini"  # ends the name of a sweep's small twin
REDUCED = "ours, reduced"
TEXT = ("paper", "place", "data", "model", "method", "quantity", "unit", "source")
TEXT += ("value", "error", "sweep", "where", "column", "statistic", "note")

# How a number of a paper is known. Nobody here had the papers' PDFs.
SOURCES = {
    "official figure": "read by eye from a figure in the authors' repository",
    "official code": "stated in the authors' code, notebook or read-me",
    "third party": "quoted by others: a commentary, a tutorial, a list of benchmarks",
    "repetition": "found by others, who repeated the experiment",
    "memory": "from memory, not verified",
}

Settings = dict[str, Any]


class Found(NamedTuple):
    """Our value of a number, and how it was made, in words."""

    value: Interval
    made: str


def numbers(folder: Path | str) -> pd.DataFrame:
    """The papers' numbers as they were written down, one row each.

    Columns: where it stands (`paper`, `place`), what it is of (`data`, `model`,
    `method`, `quantity`, `unit`), `value`, and as `written`, with all its digits,
    `error` (as the paper gives it, mostly a standard deviation or error; text, too),
    `source` (a key of `SOURCES`); then how to get ours: the rows of the collected table
    of `sweep` that have the settings `where`, their `column`, and the `statistic`: the
    "mean" of all rows; of one setting, that with the "least" or "greatest" mean, or the
    "best" one on validation images; or, without training, "counted" or a "bound" by a
    formula. With a `share` no sweep gives the number: it would cost so many times
    `sweep`. With none of these it cannot be compared, and the `note` says why.
    """
    frame = pd.read_csv(Path(folder) / "papers.csv", dtype=dict.fromkeys(TEXT, str))
    frame = frame.fillna(dict.fromkeys(TEXT, "")).rename(columns={"value": "written"})
    return frame.assign(value=frame["written"].astype(float))


def settings_of(where: str) -> Settings:
    """The settings that `where` asks for, as in "method=sam; rho=0.2"."""
    pairs = (part.split("=", 1) for part in where.split(";") if part.strip())
    return {name.strip(): yaml.load(value, sweep.Loader) for name, value in pairs}


def fitting(frame: pd.DataFrame, where: Settings) -> pd.DataFrame:
    """The rows that have these settings.

    Raises:
        ValueError: a setting that is no column.
    """
    for name, value in where.items():
        if name not in frame:
            raise ValueError(
                f"no column {name!r} to choose rows with {name}={value!r}; write one "
                f"of {', '.join(map(str, frame.columns))}"
            )
        frame = frame[frame[name] == value]
    return frame


@functools.cache
def runs(path: Path) -> pd.DataFrame:
    """The runs of a sweep's YAML file: all their settings, and `flops`."""
    wanted = sweep.read(path)
    flops = drive.flops(wanted)
    rows = [
        results.settings(job.experiment)
        | dataclasses.asdict(job.options)
        | {"flops": flops[job.name]}
        for job in wanted.jobs
    ]
    return pd.DataFrame(rows)


def table(
    folder: Path | str, sweeps: Path | str, tflops: float = cost.GPU_TFLOPS
) -> pd.DataFrame:
    """Each number of the papers with ours, where there is one.

    Args:
        folder: of the committed results.
        sweeps: of the YAML files.
        tflops: what a GPU sustains, for the cost.

    Returns:
        The columns of `numbers`, and: `ours`, an `Interval` over seeds or None; `made`,
        how; `reduced` and `reduced_made`, the same of the small twin, which is not
        comparable in level; `hours` of one GPU for the runs that give ours, NaN where
        no run does.
    """
    rows = []
    for row in numbers(folder).to_dict("records"):
        ours = reduced = None
        if row["statistic"] in ("counted", "bound"):
            value = COUNTED[row["column"]](**settings_of(row["where"]))
            ours = Found(Interval(value, np.nan, np.nan, 0), "nothing is trained")
        elif row["sweep"] and not row["share"] > 0:
            ours = read(Path(folder), Path(sweeps), row["sweep"], row)
            reduced = read(Path(folder), Path(sweeps), row["sweep"] + MINI, row)
        row["ours"], row["made"] = ours or (None, "")
        row["reduced"], row["reduced_made"] = reduced or (None, "")
        rows.append(row | {"hours": hours(Path(sweeps), row, tflops)})
    return pd.DataFrame(rows)


def hours(sweeps: Path, row: Settings, tflops: float) -> float:
    """Hours of one GPU for the runs that give a number; NaN without a sweep."""
    if not row["sweep"]:
        return np.nan
    asked = fitting(runs(sweeps / f"{row['sweep']}.yaml"), settings_of(row["where"]))
    share = row["share"] if row["share"] > 0 else 1.0
    return cost.hours(share * float(asked["flops"].sum()), tflops)


def read(folder: Path, sweeps: Path, name: str, row: Settings) -> Found | None:
    """A number from the collected table of a sweep; None if it is not there."""
    path = folder / f"{name}.csv"
    if not path.exists():
        return None
    frame, column = pd.read_csv(path), row["column"]
    if column not in frame:  # our own corruptions stand for the published ones
        column = column.replace("corrupted_", "shift_")
    frame = fitting(frame, settings_of(row["where"]))
    if column not in frame or frame[column].isna().all():
        return None
    names = runs(sweeps / f"{name}.yaml").columns.drop(["seed", "flops"])
    values = chosen(frame.dropna(subset=column), column, row["statistic"], names)
    scale = 100.0 if row["unit"] == "%" else 1.0
    return Found(results.interval(scale * values), made(path, frame))


def chosen(
    frame: pd.DataFrame, column: str, statistic: str, settings: pd.Index
) -> np.ndarray:
    """The values over seeds: of all rows, or of one setting."""
    varied = [name for name in settings if name in frame and frame[name].nunique() > 1]
    if statistic == "mean" or not varied:
        return frame[column].to_numpy()
    by = "val_nll" if statistic == "best" else column
    parts = [part for _, part in frame.groupby(varied, dropna=False)]
    extreme = max if statistic == "greatest" else min
    return extreme(parts, key=lambda part: part[by].mean())[column].to_numpy()


def made(path: Path, frame: pd.DataFrame) -> str:
    """How a table was made: preset, images, network, seeds, device, date, command."""
    about, first = files.read_json(path.with_suffix(".json")), frame.iloc[0]
    few = "" if np.isnan(first["limit"]) else f"{first['limit']:,.0f} images of "
    small = "" if np.isnan(first["size"]) else f" at {first['size']:.0f} pixels"
    seeds = ", ".join(map(str, sorted(set(frame["seed"]))))
    return (
        f"preset {first['preset']}, {few}{first['data']}{small}, {first['model']}, "
        f"{first['epochs']} epochs, seeds {seeds}; {about['device']}, {about['date']}; "
        f"{about['command']}"
    )


def gains(folder: Path | str) -> pd.DataFrame:
    """Figure 7's gains of ensembles over their mean member, in points.

    Returns:
        One row for each set of images, method and `who`: the paper, and our small twin
        where it was run; `mean`, `low` and `high` (the paper gives no interval), `n`.
    """
    frame = numbers(folder).query("place == 'Figure 7' and sweep == 'fig7-cifar10'")
    path, rows = Path(folder) / f"fig7-cifar10{MINI}.csv", []
    ours = pd.read_csv(path) if path.exists() else None
    for (data, method), part in frame.groupby(["data", "method"], sort=False):
        one, whole = part.sort_values("value").to_dict("records")
        about = {"data": data, "method": method}
        nothing = Interval(whole["value"] - one["value"], np.nan, np.nan, 1)
        rows.append(about | {"who": "paper"} | nothing._asdict())
        if ours is not None:
            mine = fitting(ours, settings_of(one["where"]))
            of = "test" if data == "CIFAR-10" else "shift"
            gain = 100 * (mine[f"{of}_accuracy"] - mine[f"{of}_member_accuracy"])
            rows.append(about | {"who": REDUCED} | results.interval(gain)._asdict())
    return pd.DataFrame(rows)


def costs(sweeps: Path | str, folder: Path | str) -> pd.DataFrame:
    """One row a sweep: what it would take at the assumed speeds, and when it was run.

    Columns: `sweep`, `runs`, `FLOP`, `hours`, `of one` (GPU; a CPU core for a small
    twin), `run` (the date, and the hours that its runs took together).
    """
    rows = []
    for path in sorted(Path(sweeps).glob("*.yaml"), key=lambda path: path.stem):
        made, story = runs(path), Path(folder) / f"{path.stem}.json"
        flops, small = float(made["flops"].sum()), path.stem.endswith(MINI)
        rate = cost.CPU_TFLOPS if small else cost.GPU_TFLOPS
        about = files.read_json(story) if story.exists() else None
        done = about and f"{about['date']}, {about['seconds'] / 3600:.2g} hours"
        row = {"sweep": path.stem, "runs": len(made), "FLOP": f"{flops:.1e}"}
        row |= {
            "hours": cost.hours(flops, rate),
            "of one": "CPU core" if small else "GPU",
        }
        rows.append(row | {"run": done or "not yet"})
    return pd.DataFrame(rows)
