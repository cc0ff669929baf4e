"""Print the README's table from the committed results: no training.

python notebooks/results/summary.py
"""

from pathlib import Path

import numpy as np
import pandas as pd

from sbtutor import results

NAMES = {
    "DE": "deep ensemble",
    "SAM 0.1": "SAM, rho 0.1",
    "SAM 0.2": "SAM, rho 0.2",
    "SharpBalance 0.2": "SharpBalance, rho 0.2",
    "random 0.2": "control: random samples",
    "shared 0.2": "control: one shared set",
}
LINE = ["SAM 0.2", "SAM 0.1", "DE"]  # from flat to sharp


def written(values: np.ndarray, digits: int) -> str:
    """Mean and half of the 95 % interval."""
    mean, _, high, _ = results.interval(values)
    return f"{mean:.{digits}f} ± {high - mean:.{digits}f}"


frame = pd.read_csv(Path(__file__).with_name("cifar10.csv"))


def heights(label: str) -> np.ndarray:
    """DER above SAM's line at the same Hessian trace, one number a seed (lesson 09)."""
    found = results.above_line(frame, label, LINE, "hessian_trace", "test_der")
    return found.to_numpy()


for label, name in NAMES.items():
    runs = frame[frame["label"] == label]
    cells = [
        name,
        written(runs["hessian_trace"].to_numpy(), 0),
        written(runs["test_der"].to_numpy(), 3),
        "0" if label in LINE else written(heights(label), 3),
        written(100 * runs["test_accuracy"].to_numpy(), 1) + " %",
        written(100 * runs["shift_accuracy"].to_numpy(), 1) + " %",
    ]
    print("| " + " | ".join(cells) + " |")
