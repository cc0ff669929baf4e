"""A sweep: a YAML file that names a grid of runs, checked before anything starts."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from sbtutor import config, jobs
from sbtutor.jobs import Job
from sbtutor.studies import STUDIES

KEYS = {"what": str, "study": str, "preset": str, "settings": dict, "grid": object}
SAVED = "sweep.json"  # in the sweep's folder
NEEDED = ("what", "preset", "grid")


MERGE = "tag:yaml.org,2002:merge"  # <<, which takes over what is not there


class Loader(yaml.SafeLoader):
    """YAML with numbers as everywhere else, and no name twice.

    By itself it takes 1e-3 for text, 010 for 8 and 1:30 for 90, and of two values of
    one name it keeps the last.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A dict; refuses a name that is there twice."""
        own = [key.value for key, _ in node.value if key.tag != MERGE]
        if len(set(map(str, own))) < len(own):
            raise yaml.constructor.ConstructorError(
                None, None, "a name is there twice in one place", node.start_mark
            )
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A decimal number, if with zeros in front."""
        return int(self.construct_scalar(node), 10)


NUMBERS = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int")
Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in NUMBERS]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_constructor(NUMBERS[1], Loader.construct_yaml_int)
Loader.add_implicit_resolver(NUMBERS[1], re.compile(r"[-+]?\d+$"), list("-+0123456789"))
Loader.add_implicit_resolver(
    NUMBERS[0],
    re.compile(
        r"[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?$|[-+]?\.(inf|Inf)$|\.(nan|NaN)$"
    ),
    list("-+0123456789."),
)


@dataclass(frozen=True)
class Sweep:
    """What is asked, and the runs that answer it."""

    what: str  # one line
    study: str
    preset: str
    axes: dict[str, list[Any]]  # the values that each setting takes in the grid
    combinations: int  # of the grid; some are the same run
    jobs: list[Job]  # each once, in the grid's order
    source: str = ""  # the YAML file, as it was named

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the inverse."""
        runs = [job.settings for job in self.jobs]
        about = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return about | {"jobs": runs}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Sweep":
        """The sweep that `to_dict` wrote.

        Raises:
            ValueError: it is of another version; says what does not fit.
        """
        about = (saved["preset"], saved["study"])
        return cls(**saved | {"jobs": [jobs.job(*about, s) for s in saved["jobs"]]})


def read(path: Path | str) -> Sweep:
    """The sweep of a YAML file.

    It has these keys:

        what      one line: what is asked
        study     what a run measures, one of `studies.STUDIES`; "ensemble" if left out
        preset    smoke, class or paper: all settings that are not named
        settings  the same for all runs, by name; may be left out
        grid      lists of values by name: every combination is a run. Or a list of
                  such grids, one after the other

    A setting without effect in a combination is set back, and a run that would be there
    twice is there once: a deep ensemble has no rho.

    Raises:
        ValueError: no such file, no YAML, an unknown key or setting (with the nearest
            known one), a value of a wrong type or out of range, an empty grid.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{path} is no file; a sweep is a YAML file, such as fig7.yaml"
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no YAML: {reason}") from None
    try:
        return dataclasses.replace(parse(content), source=str(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse(content: Any) -> Sweep:
    """The sweep of a YAML file's content; raises as `read`."""
    _check_keys(content)
    study, fixed = content.get("study", "ensemble"), content.get("settings") or {}
    config.check_choice("study", study, tuple(STUDIES))
    grids = content["grid"] if isinstance(content["grid"], list) else [content["grid"]]
    if not grids:
        raise ValueError("the grid is empty: write grid: {seed: [0]} for one run")
    found, axes, count = {}, {}, 0
    for grid in grids:
        _check_grid(grid, fixed)
        for name, values in grid.items():
            known = axes.setdefault(name, [])
            known += [value for value in values if value not in known]
        for combination in _combinations(grid):
            count += 1
            job = jobs.job(content["preset"], study, fixed | combination)
            _check_device(job.experiment.train.device)
            found.setdefault(job.name, job)
    made = list(found.values())
    return Sweep(content["what"], study, content["preset"], axes, count, made)


def _combinations(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values))


def _check_keys(content: Any) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"a sweep has the keys {', '.join(KEYS)}, got {content!r}")
    for key, value in content.items():
        if key not in KEYS:
            near = get_close_matches(str(key), KEYS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown key {key!r}: {hint}choose of {', '.join(KEYS)}")
        if not isinstance(value, KEYS[key]) and not (key == "settings" and not value):
            words = {str: "text", dict: "names with values"}[KEYS[key]]
            raise ValueError(f"{key} must be {words}, got {value!r}")
    missing = [key for key in NEEDED if key not in content]
    if missing:
        raise ValueError(
            f"a sweep needs the keys {', '.join(NEEDED)}; add {missing[0]}"
        )


def _check_device(device: str) -> None:
    if ":" in device:
        raise ValueError(
            f"device {device!r} names one GPU, but a sweep hands GPUs to its runs; "
            "write device: cuda, and CUDA_VISIBLE_DEVICES to choose which"
        )


def _check_grid(grid: Any, fixed: dict[str, Any]) -> None:
    if not isinstance(grid, dict) or not grid:
        raise ValueError(
            f"a grid is names with lists of values, at least one, got {grid!r}; write "
            "grid: {seed: [0]} for one run"
        )
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(
                f"{name} in the grid must be a list of one value or more, got "
                f"{values!r}; write {name}: [...], or put it into settings"
            )
        if name in fixed:
            raise ValueError(
                f"{name} is in the grid and in settings; leave one of them out"
            )


def ready(wanted: Sweep, here: bool = True) -> None:
    """Look whether all data, files and devices that the runs need are there.

    Downloads what can be downloaded, once, before runs do so side by side. Whether the
    device is there is not asked where runs are not done `here`.

    Raises:
        ValueError: something is missing; says what, and how to get it.
    """
    seen = set()
    for job in wanted.jobs:
        data, model, train = (getattr(job.experiment, part) for part in jobs.PARTS)
        images = (data.name, data.limit, data.size, data.root)
        key = (*images, model, train.members, train.device, job.options)
        if key not in seen:
            seen.add(key)
            device = train.device if here else "auto"
            train = dataclasses.replace(train, device=device)
            experiment = dataclasses.replace(job.experiment, train=train)
            try:
                STUDIES[job.study].ready(experiment, job.options)
            except RuntimeError as error:  # PyTorch's, for want of memory
                reason = str(error).splitlines()[0]
                raise ValueError(f"{job.settings} is too large: {reason}") from None
