"""Imports point one way, so that each file can be read after those before it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sbtutor"

# A module may import only what stands before it ...
ORDER = [
    "config",
    "files",
    "progress",
    "journal",
    "workers",
    "archives",
    "cache",
    "distortions",
    "corruptions",
    "metrics",
    "diversity",
    "selection",
    "theory",
    "theme",
    "traces",
    "describe",
    "plots",
    "panels",
    "maps",
    "data",
    "models",
    "checkpoints",
    "loguniform",
    "space",
    "perturb",
    "gradient",
    "vector",
    "fisher",
    "curvature",
    "ascent",
    "sharpness",
    "sharpbalance",
    "predict",
    "published",
    "results",
    "stack",
    "planes",
    "landscape",
    "subspace",
    "paths",
    "basin",
    "snapshots",
    "state",
    "batches",
    "gpu",
    "cost",
    "needs",
    "epochs",
    "rank_one",
    "batch_ensemble",
    "tuning",
    "descent",
    "trial",
    "pool",
    "hyper",
    "batch_training",
    "recipe",
    "augment",
    "fits",
    "cycles",
    "pretrained",
    "snapshot_ensembles",
    "transfer",
    "evaluate",
    "train",
    "optima",
    "optima_plane",
    "optima_shift",
    "study_ensemble",
    "study_landscape",
    "target",
    "starts",
    "study_hyper",
    "study_star",
    "studies",
    "jobs",
    "sweep",
    "attempts",
    "drive",
    "collect",
    "counted",
    "papers",
    "beside",
    "claims",
    "live",
    "live_figure",
    "lab",
    "session",
    "twins",
    "explore",
    "close_up",
    "album",
    "sharp_images",
    "tradeoff",
    "tradeoff_figure",
    "explore_tradeoff",
    "explore_members",
    "explore_landscape",
    "explore_theory",
    "explore_live",
    "widgets",
    "feedback",
    "check_batch",
    "check_budget",
    "check_controls",
    "check_curvature",
    "check_curves",
    "check_ensembles",
    "check_factors",
    "check_hyper",
    "check_landscape",
    "check_masks",
    "check_runs",
    "check_sam",
    "check_scale",
    "check_sharpness",
    "check_soup",
    "check_star",
    "check_start",
    "check_theory",
    "check_tradeoff",
    "check_transfer",
    "check",
    "exercises",
    "lessons",
    "typeset",
    "book",
    "course",
    "perform",
    "local",
    "cluster",
    "batch",
    "doctor",
]

# ... and these import nothing of ours, but for colours and words.
ALONE = {"metrics", "diversity", "sharpbalance", "theory", "plots"}
WORDS = {"plots": {"theme", "describe"}}

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem[0] != "_")


def ours(source: str) -> set[str]:
    """The modules of the package that a source imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = "sbtutor" if node.level else node.module or ""
            below = f".{node.module}" if node.level and node.module else ""
            names = [f"{parent}{below}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        found |= {part[1] for part in parts if part[0] == "sbtutor" and part[1:]}
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import numpy as np", set()),
        ("import sbtutor.data", {"data"}),
        ("from sbtutor import data, train", {"data", "train"}),
        ("from sbtutor.data import load", {"data"}),
        ("from .data import load", {"data"}),
        ("def f():\n    from . import data", {"data"}),
    ],
)
def test_ours_finds_each_way_to_import(source, expected):
    assert ours(source) == expected


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_left(module):
    assert module in ORDER, f"give {module} its place in ORDER"
    before = set(ORDER[: ORDER.index(module)])
    before = WORDS.get(module, set()) if module in ALONE else before
    imported = ours((PACKAGE / f"{module}.py").read_text())
    assert imported <= before, f"{module} may not import {sorted(imported - before)}"
