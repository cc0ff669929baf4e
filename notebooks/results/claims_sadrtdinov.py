"""The nine checkable claims of Sadrtdinov et al. 2023, and what we found: no training.

    python notebooks/results/claims_sadrtdinov.py

Reads transfer.csv, transfer_grid.csv and transfer_members.csv, writes
claims_sadrtdinov.csv and its .json.

The questions and their thresholds were written down before any of these tables existed.
By then networks of seed 900 had been trained to choose classes, network, epochs and
learning rates, and their barriers, grids and soups had been seen on validation images:
classes and network were chosen so that a Global DE has barriers.

"Tuned" is what has the lowest validation NLL with five members, chosen for each seed:
of the cells of the grid for SSE and StarSSE, of three trainings for a DE. Smaller
ensembles are the first members of that one. A barrier is that on training images if not
told; of a DE the mean over pairs of its first three members, of cycles the mean over
members 2 to 5, each with model 1. A basin is taken to end at a barrier of 0.05 nats
(LIMIT). An interval is the 95 % t-interval over seeds, each with its own checkpoints
and target images; source, validation and test images are the same for all. None is
adjusted for the number of questions. "By construction" stands where members differ in
nothing but the random seed.
"""

import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import questions
from questions import Row

HERE = Path(__file__).resolve().parent
SIZES = (2, 3, 4, 5)
LIMIT = 0.05  # nats
NAMES = {"local": "Local DE", "global": "Global DE", "sse": "SSE", "star": "StarSSE"}
CYCLES = ("sse", "star")
LOCALS = ("local", "local, twice as long", "local, tuned")
GLOBALS = ("global", "global, twice as long", "global, tuned")


def name_of(method: str) -> str:
    """As a reader knows it."""
    first, _, rest = method.partition(",")
    return NAMES[first] + (rest and f",{rest}")


def of_basins(data: str, by: pd.DataFrame) -> Iterator[Row]:
    """Claim 1."""
    last = by.xs(5, level="size")
    for part, column in (("training", "barrier"), ("validation", "val_barrier")):
        values = {m: last.loc[m, column] for m in ("local", "global")}
        what = f"barrier of two members, {part} images, nats"
        yield Row(1, data, f"{what}: Local DE", f"< {LIMIT:g}", values["local"])
        yield Row(1, data, f"{what}: Global DE", f"> {LIMIT:g}", values["global"])
        apart = values["global"] - values["local"]
        yield Row(1, data, f"{what}: Global - Local", "> 0", apart)


def of_sizes(data: str, by: pd.DataFrame) -> Iterator[Row]:
    """Claims 2, 6 and 9, at each size, for accuracy in points and NLL."""
    points, nll = 100 * by["test_accuracy"], by["test_nll"]
    pairs = [
        (2, "global", "local"),
        (2, "global, tuned", "local, tuned"),
        *((6, "star", other) for other in ("sse", *LOCALS)),
        *((6, "sse", other) for other in LOCALS),
        *((9, other, cycles) for cycles in CYCLES for other in GLOBALS),
    ]
    differ = by["normalized_disagreement"]
    for size in SIZES:
        what = f"normalised disagreement: {size} members, Global DE - Local DE"
        apart = differ["global", size] - differ["local", size]
        yield Row(2, data, what, "> 0", apart)
        for claim, ours, theirs in pairs:
            if size == 2 and (ours, theirs) == ("star", "sse"):
                continue  # in one cell they are the same two networks
            what = f"{size} members, {name_of(ours)} - {name_of(theirs)}"
            gain = points[ours, size] - points[theirs, size]
            yield Row(claim, data, f"accuracy, points: {what}", "> 0", gain)
            drop = nll[ours, size] - nll[theirs, size]
            yield Row(claim, data, f"NLL: {what}", "< 0", drop)
    factor = np.log2(by.loc["star", 5]["lr"])
    yield Row(6, data, "log2 of the tuned StarSSE's factor of the lr", "> 0", factor)


def of_grid(data: str, grid: pd.DataFrame, members: pd.DataFrame) -> Iterator[Row]:
    """Claim 3: along the learning rate at full length, and along the length."""
    keys = ["method", "lr", "epochs", "seed"]
    by = grid.set_index(keys).sort_index()
    last = members[members["member"] == 4].set_index(keys).sort_index()
    lrs, lengths = sorted(grid["lr"].unique()), sorted(grid["epochs"].unique())
    full = lengths[-1]
    steps = [((a, full), (b, full)) for a, b in pairwise(lrs)]
    for lr in (1, lrs[-1]):
        steps += [((lr, a), (lr, b)) for a, b in pairwise(lengths)]
    for method in CYCLES:
        name = NAMES[method]
        for weak, strong in steps:
            what = f"{name}, cycles x{strong[0]:g} lr, x{strong[1]:g} epochs"
            what += f" - x{weak[0]:g}, x{weak[1]:g}"
            a, b = (method, *weak), (method, *strong)
            for column, words, expected in (
                ("disagreement", "disagreement", "> 0"),
                ("normalized_disagreement", "normalised disagreement", "> 0"),
                ("barrier", "barrier to model 1, nats", "> 0"),
            ):
                more = by.loc[b, column] - by.loc[a, column]
                yield Row(3, data, f"{words}: {what}", expected, more)
            less = 100 * (last.loc[b, "test_accuracy"] - last.loc[a, "test_accuracy"])
            yield Row(3, data, f"points of the last member: {what}", "< 0", less)


def of_optimum(data: str, by: pd.DataFrame, grid: pd.DataFrame) -> Iterator[Row]:
    """Claim 4: the tuned cell against ends of the grid, Local DE, and the basin."""
    cells = grid.set_index(["method", "lr", "epochs", "seed"]).sort_index()
    ends = {
        "weakest": (grid["lr"].min(), grid["epochs"].min()),
        "strongest": (grid["lr"].max(), grid["epochs"].max()),
        "hottest, shortest": (grid["lr"].max(), grid["epochs"].min()),
    }
    for method in CYCLES:
        name = NAMES[method]
        tuned = by.loc[method, 5]
        for where, cell in ends.items():
            other = cells.loc[(method, *cell)]
            what = f"{name}, tuned - {where} cycles"
            more = 100 * (tuned["test_accuracy"] - other["test_accuracy"])
            yield Row(4, data, f"accuracy, points: {what}", "> 0", more)
            less = tuned["test_nll"] - other["test_nll"]
            yield Row(4, data, f"NLL: {what}", "< 0", less)
        less = tuned["test_nll"] - by.loc["local", 5]["test_nll"]
        yield Row(4, data, f"NLL: {name}, tuned - Local DE", "< 0", less)
        far = {"lr": "learning rate", "epochs": "length"}
        for column, words in far.items():
            least, most = np.log2(grid[column].min()), np.log2(grid[column].max())
            place = np.log2(tuned[column])
            what = f"log2 of the tuned {words}, {name}"
            yield Row(4, data, f"{what}: above the least", "> 0", place - least)
            yield Row(4, data, f"{what}: below the greatest", "> 0", most - place)
        what = f"barrier of tuned {name} to model 1, nats"
        yield Row(4, data, what, f"< {LIMIT:g}", tuned["barrier"])
        outside, inside = best_of(grid, method, outside=True), best_of(grid, method)
        what = f"NLL: {name}, best cell with a barrier > {2 * LIMIT:g} - "
        what += f"best with one < {LIMIT / 5:g}"
        yield Row(4, data, what, "> 0", (outside - inside).dropna())


def best_of(grid: pd.DataFrame, method: str, outside: bool = False) -> pd.Series:
    """Test NLL of each seed's best cell by validation, in the basin or outside."""
    own = grid[grid["method"] == method]
    own = own[own["barrier"] > 2 * LIMIT if outside else own["barrier"] < LIMIT / 5]
    best = own.loc[own.groupby("seed")["val_nll"].idxmin()]
    return best.set_index("seed")["test_nll"]


def of_members(data: str, by: pd.DataFrame, members: pd.DataFrame) -> Iterator[Row]:
    """Claim 5: the fifth member less the second, in tuned and in strong cycles."""
    keys = ["method", "lr", "epochs", "member", "seed"]
    each = members.drop(columns="data").set_index(keys).sort_index()
    strong = (members["lr"].max(), members["epochs"].max())
    for method in CYCLES:
        name = NAMES[method]
        tuned = by.loc[method, 5][["lr", "epochs"]]
        for where in ("tuned", "strongest"):
            rows = []
            for seed, cell in tuned.iterrows():
                at = tuple(cell) if where == "tuned" else strong
                a, b = (each.loc[(method, *at, m, seed)] for m in (1, 4))
                rows.append((b - a).rename(seed))
            change = pd.DataFrame(rows)
            what = f"{name}, {where} cycles: member 5 - member 2"
            sse = method == "sse"
            points = 100 * change["test_accuracy"]
            expected = "< 0" if sse else "holds"
            yield Row(5, data, f"accuracy, points: {what}", expected, points)
            expected = "> 0" if sse else "holds"
            yield Row(5, data, f"NLL: {what}", expected, change["test_nll"])
            words = "distance from model 1"
            yield Row(5, data, f"{words}: {what}", expected, change["distance"])
            words = "barrier to model 1, nats"
            yield Row(5, data, f"{words}: {what}", expected, change["barrier"])


def of_later(data: str, by: pd.DataFrame) -> Iterator[Row]:
    """Claim 5: the mean of members 2 to 5, less model 1."""
    points, nll = 100 * by["member_accuracy"], by["member_nll"]
    for method in CYCLES:
        for values, words in ((points, "accuracy, points"), (nll, "NLL")):
            first, all_five = values[method, 1], values[method, 5]
            later = (5 * all_five - first) / 4
            what = f"{words}: {NAMES[method]}, tuned cycles: members 2 to 5 - model 1"
            yield Row(5, data, what, "= 0", later - first)


def of_soups(data: str, by: pd.DataFrame, grid: pd.DataFrame) -> Iterator[Row]:
    """Claims 7 and 8."""
    points = 100 * by["soup_test_accuracy"]
    for suffix in ("", ", for soups"):
        star, sse = f"star{suffix}", f"sse{suffix}"
        how = "tuned for soups" if suffix else "tuned"
        for ours, theirs, words in (
            (star, "local", "StarSSE - Local DE"),
            ("local", sse, "Local DE - SSE"),
            (star, sse, "StarSSE - SSE"),
        ):
            more = points[ours, 5] - points[theirs, 5]
            what = f"soup of 5, points: {words}, {how}"
            yield Row(7, data, what, "> 0", more)
        for size in SIZES:
            more = points[star, size] - points[star, size - 1]
            what = f"soup of StarSSE, {how}, points: {size} - {size - 1} members"
            yield Row(7, data, what, "> 0", more)
        more = points[star, 5] - points[star, 1]
        what = f"soup of StarSSE, {how}, points: 5 members - model 1"
        yield Row(7, data, what, "> 0", more)
        more = points[star, 5] - 100 * by["test_accuracy"][star, 1]
        what = f"soup of StarSSE, {how}, points: 5 members - model 1 as it was trained"
        yield Row(7, data, what, "> 0", more)
    refreshed = grid["refreshed_member_accuracy"]
    gain = 100 * (grid["soup_test_accuracy"] - refreshed)
    grid = grid.assign(gain=gain)
    for method in CYCLES:
        name = NAMES[method]
        own = grid[grid["method"] == method]
        for column, words in (
            ("barrier", "barrier to model 1"),
            ("barrier_between", "barrier of members 2 and 5"),
        ):
            inside, outside = (
                own[own[column] < LIMIT / 5].groupby("seed")["gain"].mean(),
                own[own[column] > 2 * LIMIT].groupby("seed")["gain"].mean(),
            )
            what = f"soup less mean member, both refreshed, points: {name}, {words}"
            yield Row(8, data, f"{what} < {LIMIT / 5:g} nats", "> 0", inside)
            yield Row(8, data, f"{what} > {2 * LIMIT:g} nats", "< 0", outside)
            rank = own.groupby("seed")[["gain", column]].apply(
                lambda part: part.corr(method="spearman").iloc[0, 1]
            )
            what = f"rank correlation of {words} and the soup's gain, {name}"
            yield Row(8, data, what, "< -0.5", rank.dropna())


def answers() -> pd.DataFrame:
    """One row a question, ordered by claim."""
    tables = {
        part: pd.read_csv(HERE / f"transfer{part}.csv")
        for part in ("", "_grid", "_members")
    }
    asked = []
    for data in tables[""]["data"].unique():
        own, grid, members = (f[f["data"] == data] for f in tables.values())
        by = own.set_index(["method", "size", "seed"]).sort_index()
        rows = [
            *of_basins(data, by),
            *of_sizes(data, by),
            *of_grid(data, grid, members),
            *of_optimum(data, by, grid),
            *of_members(data, by, members),
            *of_later(data, by),
            *of_soups(data, by, grid),
        ]
        asked += [(row, "recompute.py transfer") for row in rows]
    return questions.table(asked)


def main() -> int:
    """Write the table, and how it was made."""
    start = time.monotonic()
    frame = answers()
    what = "Sadrtdinov et al.'s nine claims on fashion-mini and CIFAR-10 (JPEG)"
    questions.write("claims_sadrtdinov", what, frame, time.monotonic() - start)
    return 0


if __name__ == "__main__":
    sys.exit(main())
