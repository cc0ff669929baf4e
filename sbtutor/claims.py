"""The papers' checkable claims, and what our experiments say of them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

VERDICTS = ("shown", "in accord", "by construction", "not shown at this size")
VERDICTS += ("contradicted", "too few seeds")

# Data as readers know them; Wenzel et al.'s claims are told apart by network.
NAMES = {"cifar10": "CIFAR-10"}
NAMES |= {"mlp": "fashion-mini, MLP", "lenet": "fashion-mini, LeNet"}


def table(folder: Path | str, paper: str) -> pd.DataFrame:
    """A paper's checkable claims, one row a claim and data set.

    Returns:
        `claim`, `says` (the paper's claim in one sentence), `known from`, `data`,
        `answers` (how many questions on it have which verdict), `for example` (one of
        these questions), `found` (its estimate with 95 % interval), `n` seeds, its
        `verdict`, and the `command` that repeats the runs.
    """
    rows = []
    about = pd.read_csv(Path(folder) / "paper_claims.csv")
    for claim in about[about["paper"] == paper].to_dict("records"):
        asked = pd.read_csv(Path(folder) / f"{claim['table']}.csv")
        asked = asked[asked["claim"] == claim["claim"]]
        for data, part in asked.groupby("data", sort=False):
            main = part["quantity"].isin(claim["main"].split(" | "))
            (one,) = part[main].itertuples()
            rows.append(_claim(claim, str(data), part, one))
    return pd.DataFrame(rows)


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """A `table` in words for readers: one row a claim and data set."""
    rows = found.to_dict("records")
    frame = pd.DataFrame(
        {
            "claim": [f"{r['claim']}. {r['says']} ({r['known from']})" for r in rows],
            "on": found["data"].replace(NAMES),
            "all questions": found["answers"],
            "one of them": found["for example"],
            "found": [f"{r['found']}, n = {r['n']}: {r['verdict']}" for r in rows],
        }
    )
    return frame.set_index(["claim", "on"])


def _claim(claim: dict, data: str, part: pd.DataFrame, one: Any) -> dict:
    verdicts = Counter(part["verdict"])
    return {
        "claim": claim["claim"],
        "says": claim["says"],
        "known from": claim["source"],
        "data": data,
        "answers": ", ".join(f"{verdicts[v]} {v}" for v in VERDICTS if verdicts[v]),
        "for example": f"{one.quantity} {one.expected}",
        "found": f"{one.estimate:.4g} [{one.low:.4g}, {one.high:.4g}]",
        "n": one.n,
        "verdict": one.verdict,
        "command": one.command,
    }
