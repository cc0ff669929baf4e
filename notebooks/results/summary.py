"""Print the README's tables from the committed results: no training.

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
FORT = {  # quantities of claims_fort.csv, in the README's words
    "disagreement between / within runs": "disagreement between runs / late in one run",
    "points of accuracy that random has lost at the height of optima": "points that "
    "random steps from an optimum cost, to be as high as other optima",
    "place between the limits (0 lower, 1 upper): optima": "place of the optima "
    "between flipped (0) and independent (1) errors",
    "worst accuracy: curve - straight line, points": "worst accuracy on a fitted curve "
    "between two optima, less that on the straight line, points",
    "accuracy: 4 optima - diagonal at one, points": "accuracy of four optima, less "
    "that of eight diagonal Gaussian samples around one, points",
    "Brier score: 4 optima with diagonal - without": "Brier score of both together, "
    "less that of four optima",
}
WENZEL = {  # methods of hyper_kinds.csv, in the README's words
    "single": "one network, the best of 50 tried",
    "deep": "deep ensemble of three",
    "hyper-deep": "hyper-deep ensemble of three",
    "batch": "batch ensemble of three",
    "hyper-batch, tau 0.0001": "hyper-batch ensemble of three",
}
SADRTDINOV = {  # methods of transfer.csv, in the README's words
    "scratch": "from scratch",
    "local": "Local DE: one checkpoint",
    "local, tuned": "Local DE, tuned",
    "global": "Global DE: five checkpoints",
    "global, tuned": "Global DE, tuned",
    "sse": "SSE, tuned",
    "star": "StarSSE, tuned",
    "star, for soups": "StarSSE, tuned for soups",
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

claims = pd.read_csv(Path(__file__).with_name("claims_fort.csv"))
for quantity, name in FORT.items():
    rows = claims[claims["quantity"] == quantity].set_index("data")
    found = [
        f"{row.estimate:.3g} [{row.low:.3g}, {row.high:.3g}]"
        for row in rows.loc[["fashion-mini", "cifar10"]].itertuples()
    ]
    print("| " + " | ".join([name, *found]) + " |")

kinds = pd.read_csv(Path(__file__).with_name("hyper_kinds.csv"))
for method, name in WENZEL.items():
    rows = kinds[kinds["method"] == method]
    size = rows.groupby("network")["parameters"].first()
    one = rows.groupby("network")["one_network"].first()
    cells = [name]
    for network in ("mlp", "lenet"):
        own = rows[rows["network"] == network]
        cells += [
            written(own["nll"].to_numpy(), 3),
            written(100 * own["accuracy"].to_numpy(), 1) + " %",
            f"{size[network] / one[network]:.2f}",
        ]
    print("| " + " | ".join(cells) + " |")

transfer = pd.read_csv(Path(__file__).with_name("transfer.csv"))
for method, name in SADRTDINOV.items():
    rows = transfer[(transfer["method"] == method) & (transfer["size"] == 5)]
    cells = [name]
    for images in ("fashion-mini", "cifar10"):
        own = rows[rows["data"] == images]
        cells += [
            written(100 * own["test_accuracy"].to_numpy(), 1) + " %",
            written(own["normalized_disagreement"].to_numpy(), 2),
            written(100 * own["soup_test_accuracy"].to_numpy(), 1) + " %",
        ]
    print("| " + " | ".join(cells) + " |")
