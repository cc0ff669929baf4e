"""The eight checkable claims of Fort et al. 2019, and what we found: no training.

    python notebooks/results/claims_fort.py

Reads landscape.csv and landscape_shift.csv, writes claims_fort.csv and its .json.

The questions were first written down after a look at one ensemble on fashion-mini (its
test images; seed 900, in no table). Those on claims 3, 4 and 5 and the measures behind
them were then made stricter, at a reviewer's wish, with a first form of the tables
known. So this is description, not a test.

An interval is the 95 % t-interval over eight ensembles. All see the same images, so it
does not say what other images would give. None is adjusted for the number of questions.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import questions
from questions import Row

HERE = Path(__file__).resolve().parent
SAMPLERS = ("random", "dropout", "diagonal", "low rank", "swag")
NEAR = ("trajectory", *SAMPLERS)  # ensembles around one optimum
WILD = ("trajectory", *(f"wild {name}" for name in SAMPLERS))  # as diverse as may be
SHIFTED = ("1", "2", "3", "4", "5")


def of_runs(data: str, row: pd.DataFrame) -> Iterator[Row]:
    """Claims 1, 2, 3, 4 and 6, from one row a run."""

    def ask(claim: int, what: str, expected: str, values: pd.Series) -> Row:
        return Row(claim, data, what, expected, values)

    within, between = row["disagreement_within"], row["disagreement_between"]
    yield ask(1, "weight cosine within a run, late", "> 0.9", row["cosine_within"])
    yield ask(1, "|weight cosine| between runs", "< 0.1", row["cosine_between"])
    yield ask(1, "disagreement between / within runs", "> 1", between / within)
    yield ask(1, "disagreement between runs / error", "> 0.5", row["der"])
    points = 100 * row["accuracy_range"]
    yield ask(1, "accuracy of runs, best less worst, points", "< 2", points)
    for name, where in (("map", "t-SNE map"), ("probs", "probabilities")):
        what = f"silhouette of runs and their samples, {where}"
        yield ask(2, what, "> 0", row[f"silhouette_{name}"])
    for name in SAMPLERS:
        what = f"height of optima - of {name} that has lost a point of accuracy"
        yield ask(3, what, "> 0", row[f"gap_{name}"])
        what = f"points of accuracy that {name} has lost at the height of optima"
        yield ask(3, what, "> 0", 100 * row[f"price_{name}"])
    what = "place between the limits (0 lower, 1 upper)"
    yield ask(4, f"{what}: optima", "> 0.5", row["place_optima"])
    for name in SAMPLERS:
        place = row[f"place_{name}"]
        yield ask(4, f"{what}: {name} that has lost a point", "< 0.5", place)
        yield ask(4, f"{what}: optima - {name}", "> 0", row["place_optima"] - place)
    line, curve = (100 * row[f"{name}_worst_change"] for name in ("line", "curve"))
    what = "worst accuracy on the curve - between its ends, points"
    yield ask(6, what, "> -2", curve)
    yield ask(6, "worst accuracy: curve - straight line, points", "> 0", curve - line)
    middle = row["curve_middle_disagreement"]
    yield ask(6, "disagreement: middle of the curve with its ends / within a run",
              "> 1", middle / within)  # fmt: skip


def of_ensembles(data: str, frame: pd.DataFrame) -> Iterator[Row]:
    """Claims 5, 7 and 8, from one row a method, place and number of optima."""
    keys = ["method", "optima", "place", "seed"]
    by = frame.set_index(keys).sort_index()
    points, brier, js = 100 * by["accuracy"], by["brier"], by["js"]
    most = int(frame["optima"].max())

    def ask(claim: int, what: str, expected: str, values: pd.Series) -> Row:
        return Row(claim, data, what, expected, values)

    for name in ("average", *NEAR):
        gain = points["optima", most, "0"] - points[name, 1, "0"]
        what = f"accuracy: {most} optima - {name} at one, points"
        yield ask(5, what, "> 0", gain)
        less = brier["optima", most, "0"] - brier[name, 1, "0"]
        yield ask(5, f"Brier score: {most} optima - {name} at one", "< 0", less)
        more = brier[name, most, "0"] - brier["optima", most, "0"]
        yield ask(5, f"Brier score: {most} optima with {name} - without", "< 0", more)
    for place in ("0", *SHIFTED, "digits"):
        where = "digits" if place == "digits" else f"severity {place}"
        for name in WILD:
            gap = js["optima", most, place] - js[name, 1, place]
            yield ask(7, f"JS, {where}: optima - {name}", "> 0", gap)
    for name in ("optima", *WILD):
        m = most if name == "optima" else 1
        growth = js[name, m, "5"] - js[name, m, "0"]
        yield ask(7, f"JS of {name}: severity 5 - clean", "> 0", growth)
    for m in range(2, most + 1):
        gain = points["optima", m, "0"] - points["optima", m - 1, "0"]
        yield ask(8, f"accuracy: {m} optima - {m - 1}, points", "> 0", gain)
        less = brier["optima", m, "0"] - brier["optima", m - 1, "0"]
        yield ask(8, f"Brier score: {m} optima - {m - 1}", "< 0", less)
    for name in ("optima", "average", *NEAR):
        label = "one network" if name == "optima" else f"{name} at one"
        for what, values, sign in (
            ("accuracy, points", points, "> 0"),
            ("Brier score", brier, "< 0"),
        ):
            for place in SHIFTED if name == "optima" else SHIFTED[-1:]:
                there, clean = (
                    values["optima", most, at] - values[name, 1, at]
                    for at in (place, "0")
                )
                said = f"({most} optima - {label}), severity {place} less clean"
                yield ask(8, f"{what}: {said}", sign, there - clean)


def answers() -> pd.DataFrame:
    """One row a question, ordered by claim."""
    runs, shift = (
        pd.read_csv(HERE / f"{name}.csv") for name in ("landscape", "landscape_shift")
    )
    asked = [
        row
        for data in runs["data"].unique()
        for row in (
            *of_runs(data, runs[runs["data"] == data].set_index("seed")),
            *of_ensembles(data, shift[shift["data"] == data]),
        )
    ]
    return questions.table((row, "recompute.py landscape") for row in asked)


def main() -> int:
    """Write the table, and how it was made."""
    start = time.monotonic()
    frame, what = answers(), "Fort et al.'s eight claims; runs by the commands in rows"
    questions.write("claims_fort", what, frame, time.monotonic() - start)
    return 0


if __name__ == "__main__":
    sys.exit(main())
