"""All studies: what one run of a sweep can be."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sbtutor import study_ensemble, study_hyper, study_landscape, study_star
from sbtutor.config import Experiment
from sbtutor.cost import Sizes


class Study(NamedTuple):
    """What is done with an experiment, and what must be known before."""

    what: str  # one line
    options: type  # frozen, keyword-only dataclass of what only this study knows
    # (experiment, options): ValueError if they do not fit; looks at no files.
    check: Callable[[Experiment, Any], None]
    # (experiment, options): ValueError if data, files or the device are missing.
    ready: Callable[[Experiment, Any], None]
    # (experiment, options, folder, shared): trains or resumes in `folder`; `shared` is
    # one folder for all runs of a sweep. The row is flat and has "seconds".
    run: Callable[[Experiment, Any, Path, Path], dict[str, float | int | str]]
    # (experiment, options, sizes): of all training and prediction.
    flops: Callable[[Experiment, Any, Sizes], float]


def _study(module: ModuleType) -> Study:
    return Study(
        module.WHAT,
        module.Options,
        module.check,
        module.ready,
        module.run,
        module.flops,
    )


STUDIES: dict[str, Study] = {
    "ensemble": _study(study_ensemble),
    "landscape": _study(study_landscape),
    "hyper": _study(study_hyper),
    "star": _study(study_star),
}
