"""All studies: what one run of a sweep can be."""

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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


@functools.cache
def _study(name: str) -> Study:
    module = importlib.import_module(f"sbtutor.study_{name}")
    found = {n: getattr(module, n) for n in ("check", "ready", "run", "flops")}
    return Study(what=module.WHAT, options=module.Options, **found)


class Studies(Mapping[str, Study]):
    """The studies by name.

    Study X is the module `study_X`. It is imported when it is first asked for: each
    run needs one, and some take two seconds.
    """

    NAMES = ("ensemble", "landscape", "hyper", "star")

    def __getitem__(self, name: str) -> Study:
        """Raises KeyError for another name."""
        if name not in self.NAMES:
            raise KeyError(name)
        return _study(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.NAMES)

    def __len__(self) -> int:
        return len(self.NAMES)


STUDIES = Studies()
