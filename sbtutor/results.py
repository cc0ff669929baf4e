"""A run as a folder; all runs as one table; means with intervals, paired tests."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import sbtutor
from sbtutor import files
from sbtutor.config import Experiment

Values = Sequence[float] | np.ndarray | pd.Series  # one number a seed

METRICS = "metrics.json"  # written last: a folder that has it is a complete run


def run_folder(root: Path | str, experiment: Experiment) -> Path:
    """Where a run belongs: method, seed and a hash of all settings."""
    text = json.dumps(experiment.to_dict(), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    train = experiment.train
    return Path(root) / f"{train.method}-seed{train.seed}-{digest}"


def is_complete(run: Path | str) -> bool:
    """Whether a run folder holds a finished run."""
    return (Path(run) / METRICS).exists()


def provenance(device: str, seconds: float) -> dict[str, Any]:
    """Where, when and with what a result was made."""
    return {
        "seconds": round(seconds, 1),
        "device": device,
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "sbtutor": sbtutor.__version__,
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),  # not imported: 1 s
        "python": platform.python_version(),
    }


def check_same_experiment(run: Path, experiment: Experiment) -> None:
    """Refuse to mix two experiments in one folder.

    Raises:
        ValueError: the folder holds a run of another experiment; names the first
            setting that differs.
    """
    path = run / "config.json"
    if not path.exists():
        return
    there, here = files.read_json(path), experiment.to_dict()
    for part, fields in here.items():
        for name, value in fields.items():
            value = list(value) if isinstance(value, tuple) else value
            old = there.get(part, {}).get(name)
            if old != value:
                raise ValueError(
                    f"{run} holds a run with {part}.{name}={old!r}, this one has "
                    f"{value!r}; choose another folder or delete that one"
                )


def load_experiment(run: Path | str) -> Experiment:
    """The experiment whose run a folder holds."""
    return Experiment.from_dict(files.read_json(Path(run) / "config.json"))


def load_metrics(run: Path | str) -> dict[str, float]:
    """A finished run's numbers; what is undefined is NaN."""
    return with_nan(files.read_json(Path(run) / METRICS))


def with_nan(saved: dict[str, Any]) -> dict[str, Any]:
    """What JSON, which has no NaN, holds as null, as NaN again."""
    return {name: np.nan if value is None else value for name, value in saved.items()}


def table(root: Path | str) -> pd.DataFrame:
    """All finished runs under a folder, one row each.

    Columns: `run` (folder name), the settings (`data`, `model`, then the fields of
    each config; a name that two configs share gets its part in front), the metrics,
    then seconds, device and versions. Unfinished runs are left out.

    Raises:
        ValueError: a run is damaged, or of another version; names it.
    """
    rows = []
    for path in sorted(Path(root).rglob(METRICS)):
        run = path.parent
        try:
            rows.append(
                {"run": run.name}
                | settings(load_experiment(run))
                | load_metrics(run)
                | files.read_json(run / "provenance.json")
            )
        except (OSError, TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{run} is no run that this version can read ({error}); "
                "move it away, or train it again"
            ) from None
    return pd.DataFrame(rows)


def settings(experiment: Experiment) -> dict[str, Any]:
    """An experiment as columns: see `table`."""
    row = {"data": experiment.data.name, "model": experiment.model.name}
    for part in ("data", "model", "train"):
        for name, value in dataclasses.asdict(getattr(experiment, part)).items():
            if name not in ("name", "device"):  # `device` is the one that was used
                key = f"{part}_{name}" if name == "seed" and part == "data" else name
                row[key] = value
    return row


def committed(name: Path | str) -> pd.DataFrame:
    """A result that was computed beforehand: NAME.csv, one row a run.

    Prints one line, from NAME.json, on what it is and how to recompute it.

    Raises:
        ValueError: there is no such result.
    """
    table, story = Path(f"{name}.csv"), Path(f"{name}.json")
    if not (table.exists() and story.exists()):
        raise ValueError(
            f"no committed result {name} ({table} and {story} are needed); "
            "run this from the folder notebooks/, or recompute it there"
        )
    made = files.read_json(story, "fetch it again from the repository")
    print(
        f"{made['what']}; measured {made['date']} on {made['device']} with torch "
        f"{made['torch']}, {made['seconds'] / 60:.0f} minutes of runs; "
        f"again: {made['command']}"
    )
    return pd.read_csv(table)


def by_label(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean and 95 % interval of a column for each `label`, in order of appearance.

    Returns:
        Columns `method`, `mean`, `low`, `high`, `values` (the single runs'): what
        `plots.intervals` takes.
    """
    rows = []
    for label, part in frame.groupby("label", sort=False):
        mean, low, high, _ = interval(part[column])
        values = part[column].tolist()
        rows.append((label, mean, low, high, values))
    return pd.DataFrame(rows, columns=["method", "mean", "low", "high", "values"])


def against(
    frame: pd.DataFrame, ours: str, theirs: str, columns: Sequence[str]
) -> pd.DataFrame:
    """Paired differences of two labels over the seeds that they share.

    Args:
        frame: one row a run, with columns `label` and `seed`.
        ours: the label whose gain is asked for.
        theirs: the label it is compared with.
        columns: the quantities.

    Returns:
        One row a column: `difference` (ours - theirs), `low` and `high` of its 95 %
        interval, `t`, `p` (two-sided, not adjusted for looking often), `n`.
    """
    by_seed = frame.pivot(index="seed", columns="label", values=list(columns))
    rows = {}
    for column in columns:
        both = by_seed[column][[ours, theirs]].dropna()
        (mean, low, high, n), t, p = paired(both[ours], both[theirs])
        rows[column] = dict(difference=mean, low=low, high=high, t=t, p=p, n=n)
    return pd.DataFrame(rows).T.astype({"n": int})


def above_line(
    frame: pd.DataFrame, label: str, line: Sequence[str], x: str, y: str
) -> pd.Series:
    """How far a method's `y` lies above a line of others at the same `x`, by seed.

    The line joins the methods of `line`, in the order of growing x. Left of its first
    point and right of its last one it goes on horizontally.

    Args:
        frame: one row a run, with columns `label` and `seed`.
        label: the method asked about.
        line: two methods or more, from small to large x.
        x: the quantity that is held equal.
        y: the quantity whose height is asked for.

    Raises:
        ValueError: fewer than two methods, one that is not in the table; the line's x
            does not grow for some seed (names it).
    """
    missing = {label, *line} - set(frame["label"])
    if len(line) < 2 or missing:
        raise ValueError(
            f"a line joins at least two methods of the table, got {list(line)}, and "
            f"{sorted(missing)} are not in it; write labels from its column `label`"
        )
    line, found = list(line), {}
    columns = list(dict.fromkeys([label, *line]))
    at, height = (
        frame.pivot(index="seed", columns="label", values=column)[columns]
        for column in (x, y)
    )
    for seed in at.dropna().index:
        if not (np.diff(at.loc[seed, line]) > 0).all():
            raise ValueError(
                f"{x} does not grow along {', '.join(line)} for seed {seed}, so there "
                "is no line to compare with; give the methods in the order of growing "
                f"{x}, or leave some out"
            )
        level = np.interp(
            at.loc[seed, label], at.loc[seed, line], height.loc[seed, line]
        )
        found[seed] = height.loc[seed, label] - level
    return pd.Series(found, name=y)


class Interval(NamedTuple):
    """A mean and the 95 % interval around it."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """As `0.123 ± 0.004 (n = 8)`."""
        if self.n < 2:
            return f"{self.mean:.4g} (n = {self.n})"
        return f"{self.mean:.4g} ± {self.high - self.mean:.2g} (n = {self.n})"


def interval(values: Values) -> Interval:
    """Mean and 95 % t-interval over independent seeds, x̄ ± t_{n-1} s / sqrt(n).

    With one value the interval is unknown: low and high are NaN.

    Raises:
        ValueError: no values.
    """
    x = np.asarray(values, dtype=float)
    if len(x) == 0:
        raise ValueError("an interval needs at least one value, got none")
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, np.nan, np.nan, 1)
    from scipy import stats  # half a second, which a run of a sweep can do without

    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half, len(x))


def verdict(found: Interval, sign: int) -> str:
    """What an interval says about the claim that a quantity is > 0 (sign 1) or < 0.

    Returns:
        "shown", "contradicted", or "not shown at this size" if 0 lies inside.
    """
    low, high = sorted((sign * found.low, sign * found.high))
    if low > 0:
        return "shown"
    return "contradicted" if high < 0 else "not shown at this size"


class Paired(NamedTuple):
    """The difference of two methods that share their seeds."""

    difference: Interval
    t: float
    p: float


def paired(ours: Values, theirs: Values) -> Paired:
    """Mean of the differences seed by seed, its 95 % interval and the paired t test.

    Args:
        ours: one value a seed.
        theirs: the other method's values for the same seeds, in the same order.

    Raises:
        ValueError: not as many values on both sides, or fewer than two.
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.shape != b.shape or len(a) < 2:
        raise ValueError(
            "a paired test needs the same seeds on both sides, at least two of them; "
            f"got {len(a)} and {len(b)} values"
        )
    from scipy import stats

    test = stats.ttest_rel(a, b)
    return Paired(interval(a - b), float(test.statistic), float(test.pvalue))
