"""A paper's claims as questions with numbers: one row each, with a verdict."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from sbtutor import files, results

HERE = Path(__file__).resolve().parent


class Row(NamedTuple):
    """One question: what the claim says of a quantity, and its value for each seed."""

    claim: int
    data: str
    quantity: str
    expected: str  # "> x", "< x": must hold; "= x", "<= x", ">= x": not be refuted
    values: pd.Series | np.ndarray


def verdict(found: results.Interval, expected: str) -> str:
    """What the 95 % interval says of the claim.

    Of an inequality it shows or contradicts it, or neither. An equality or a bound
    ("= x", "<= x", ">= x") can only be in accord with it, or contradicted.
    """
    if expected == "holds":
        return "by construction"
    if np.isnan(found.low):
        return "too few seeds"
    relation, number = expected.split()
    x = float(number)
    if relation == "=":
        return "in accord" if found.low <= x <= found.high else "contradicted"
    if relation == "<=":
        return "in accord" if found.low <= x else "contradicted"
    if relation == ">=":
        return "in accord" if found.high >= x else "contradicted"
    moved = found._replace(low=found.low - x, high=found.high - x)
    return results.verdict(moved, {">": 1, "<": -1}[relation])


def table(asked: Iterable[tuple[Row, str]]) -> pd.DataFrame:
    """One row a question with estimate, interval, verdict and command, by claim.

    Args:
        asked: the questions, each with the script in this folder that answers it.
    """
    found = []
    for row, script in sorted(asked, key=lambda pair: pair[0].claim):
        nothing = results.Interval(np.nan, np.nan, np.nan, 0)
        mean = results.interval(np.asarray(row.values)) if len(row.values) else nothing
        found.append(
            {
                "claim": row.claim,
                "data": row.data,
                "quantity": row.quantity,
                "expected": row.expected,
                "estimate": mean.mean,
                "low": mean.low,
                "high": mean.high,
                "n": mean.n,
                "verdict": verdict(mean, row.expected),
                "command": f"python notebooks/results/{script}",
            }
        )
    return pd.DataFrame(found)


def write(
    name: str, what: str, frame: pd.DataFrame, seconds: float, digits: int = 6
) -> None:
    """NAME.csv, and NAME.json on how NAME.py made it."""
    text = frame.to_csv(index=False, float_format=f"%.{digits}g")
    files.write_bytes(HERE / f"{name}.csv", text.encode())
    story = {"what": what, "command": f"python notebooks/results/{name}.py"}
    story |= results.provenance("cpu", seconds)
    files.write_json(HERE / f"{name}.json", story)
    print(f"wrote {name}.csv ({len(frame)} rows) and {name}.json")
