"""Checks of lesson 10's exercises on runs: networks in common, and what is left."""

import itertools
from collections.abc import Callable

from sbtutor.feedback import NOTHING, exercise

ROW = "row.json"


@exercise("10")
def fresh_seeds(answer: Callable[[int, int], object]) -> str | None:
    """Numbers of ensembles and of members to first seeds that share no network."""
    for ensembles, members in ((3, 3), (2, 5), (4, 2), (3, 150)):  # no step fits all
        seeds = _plain(answer(ensembles, members))
        if isinstance(seeds, list | tuple):
            seeds = [_plain(seed) for seed in seeds]
        if seeds is None or seeds is Ellipsis:
            return NOTHING
        told = _as_seeds(seeds, ensembles) or _shared(list(seeds), members)
        if told:
            return f"for {ensembles} ensembles of {members} members {told}"
    return None


def _plain(value: object) -> object:
    """A tensor or array as Python's numbers; all else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _as_seeds(seeds: object, ensembles: int) -> str | None:
    """Why an answer cannot be a list of seeds."""
    if not isinstance(seeds, list | tuple | range):
        return f"return a list of first seeds; this is a {type(seeds).__name__}."
    if any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in seeds):
        return f"seeds are whole numbers from 0 on; these are {list(seeds)}."
    if len(seeds) == ensembles:
        return None
    return (
        f"give {ensembles} first seeds, one an ensemble; the members' own follow from "
        f"them. These are {len(seeds)}."
    )


def _shared(seeds: list, members: int) -> str | None:
    """Which network two ensembles have in common."""
    for (i, a), (j, b) in itertools.combinations(enumerate(seeds), 2):
        if abs(a - b) < members:
            return (
                f"you give {seeds}: ensembles {i} and {j} both have the network with "
                f"seed {max(a, b)}."
            )
    return None


CASES = {  # of exercise 3: the files of some runs
    "sgd-seed0": [ROW, "config.json", "history.csv", "notebook.ipynb", "run.log"],
    "sgd-seed3": ["config.json", "history.csv", "checkpoint.pt", "notebook.ipynb"],
    "sam-seed0": [],
    "sam-seed3": ["config.json", "checkpoint.pt", "metrics.json"],
    "sam-seed6": ["config.json", "metrics.json", ".row.json.k3x9"],
    "sam-seed9": ["notebook.ipynb", "metrics.json", ROW],
    "sam-seed12": ["config.json", "arrow.json"],
    "sam-seed15": ["config.json", "row.json.bak"],
}
WHY = {
    "sgd-seed3": "papermill writes a notebook for a kernel that died, too",
    "sam-seed0": "its folder is empty, so it has not begun",
    "sam-seed3": "it was killed after training, before its row was written",
    "sam-seed6": f".row.json.k3x9 is a file half-written, not yet moved to {ROW}",
    "sam-seed12": f"arrow.json only ends like {ROW}; the whole name has to fit",
    "sam-seed15": f"row.json.bak only begins like {ROW}; the whole name has to fit",
}


@exercise("10")
def still_to_run(answer: Callable[[dict], object]) -> str | None:
    """Runs as {name: [its files]} to the names of those to be started."""
    for names in (list(CASES), list(CASES)[::-2], list(CASES)[:2]):
        runs = {name: list(CASES[name]) for name in names}
        found = answer({name: list(files) for name, files in runs.items()})
        if found is None or found is Ellipsis:
            return NOTHING
        if not isinstance(found, list | tuple | set):
            return f"return a list of names; this is a {type(found).__name__}."
        told = _of_runs(found, runs)
        if told:
            return told
    return None


def _of_runs(found: list | tuple | set, runs: dict[str, list[str]]) -> str | None:
    """The first run on which a list of names is wrong."""
    if len(set(found)) < len(found):
        return "a name is in your list twice; that run would be started twice."
    wanted = [name for name, files in runs.items() if ROW not in files]
    if set(found) == set(runs) - set(wanted):
        return "these are the finished ones; return the others."
    for name in runs:
        if name in found and name not in wanted:
            return f"{name} has its {ROW}, so it is finished; leave it out."
        if name in wanted and name not in found:
            return f"{name} has no {ROW}: {WHY[name]}. It is still to be run."
    extra = [name for name in found if name not in runs]
    return f"there is no run {extra[0]!r}; return names of runs." if extra else None
