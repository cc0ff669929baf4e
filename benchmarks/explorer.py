"""How long an explorer takes to answer a control, in the kernel, with 500 runs.

    python benchmarks/explorer.py [MOVES]

The table holds 500 runs, each with ensembles of two, three and four members: the rows
of the committed table, drawn with replacement. A move sets a control to another value
and waits until figure, words and, for `run` and `members`, the close-up are drawn.

Prints for each control the median and the worst time of MOVES (20), in milliseconds of
the clock and of the processor; they differ where other programs are at work. Then, in
turns, the ratio to the first drawing that comes to mind: one trace a run.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import turns

from sbtutor import close_up, config, data, explore_members, explore_tradeoff, plots
from sbtutor.close_up import CloseUps
from sbtutor.explore import Explorer
from sbtutor.tradeoff_figure import tradeoff_figure

RESULTS = Path(__file__).resolve().parents[1] / "notebooks" / "results"
RUNS = 500


def resampled(
    runs: pd.DataFrame, kept: CloseUps, count: int
) -> tuple[pd.DataFrame, CloseUps]:
    """So many runs and their close-ups, drawn with replacement, with some noise."""
    source = np.random.default_rng(0)
    drawn = source.choice(runs["number"].unique(), count)
    by_number = {number: part for number, part in runs.groupby("number")}
    parts = [by_number[n].assign(number=i, seed=i) for i, n in enumerate(drawn)]
    many = pd.concat(parts, ignore_index=True)
    measures = many.select_dtypes("float").columns.drop(["rho", "sam_fraction"])
    noise = source.normal(1, 0.02, (len(many), len(measures)))
    probs, fisher = kept.probs[drawn], kept.log10_fisher[drawn]
    kept = kept._replace(probs=probs, log10_fisher=fisher)
    return many.assign(**(many[measures] * noise)), kept


def values(control) -> list:
    """The values that a control can take."""
    if hasattr(control, "_options_full"):
        return [value for _, value in control._options_full]
    return list(range(control.min, control.max + 1, control.step))


def moves(box: Explorer, name: str, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of `count` moves of a control, by the clock and the processor."""
    control, wall, processor = box.controls[name], [], []
    offered, first = values(control), control.value
    for _ in range(count):
        at = offered.index(control.value)
        before = time.perf_counter(), time.process_time()
        control.value = offered[(at + 1) % len(offered)]
        after = time.perf_counter(), time.process_time()
        wall.append(1e3 * (after[0] - before[0]))
        processor.append(1e3 * (after[1] - before[1]))
    control.value = first
    return wall, processor


def naive(runs: pd.DataFrame):
    """One trace a run, as one would write it first."""
    figure = plots.blank("500 runs", "", "sharpness", "diversity")
    for _, row in runs.iterrows():
        figure.add_scatter(x=[row["worst_case_l2"]], y=[row["test_der"]], name="run")
    return figure


def main(count: int = 20) -> None:
    """Print the tables."""
    runs = pd.read_csv(RESULTS / "explorer.csv")
    kept = close_up.load(RESULTS / "explorer.npz")
    images = data.load(config.DataConfig(name="fashion-mini")).test
    many, many_kept = resampled(runs, kept, RUNS)
    boxes = {
        f"trade-off, {RUNS} runs": explore_tradeoff.tradeoff(many, many_kept, images),
        "members": explore_members.members(runs, kept, images),
    }
    for title, box in boxes.items():
        print(
            f"{title}: ms a move      clock: median  worst   processor: median  worst"
        )
        for name in box.controls:
            told = [
                f"{statistics.median(times):17.1f} {max(times):6.1f}"
                for times in moves(box, name, count)
            ]
            print(f"  {name:16}", *told)
    few = many[many["members"] == 4]
    print("one trace a run, against ours:", end=" ")
    print(turns.in_turns(lambda: naive(few), lambda: tradeoff_figure(few), 3))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
