"""One run of a sweep: what it is, checked beforehand; how it is done, once."""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sbtutor import config, files, results
from sbtutor.config import DataConfig, Experiment, ModelConfig, TrainConfig
from sbtutor.state import device_of
from sbtutor.studies import STUDIES

ROW = "row.json"  # written last: a folder that has it holds a finished run
JOB = "job.json"
PATIENCE = 180.0  # seconds for a dying process to let go of a run; NFS takes 90
PARTS = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}
# What a method does not look at. SAM keeps its warm-up: after it, it leaves the state
# from which SharpBalance runs with the same settings go on. So SAM runs for different
# warm-ups are alike but for that.
IDLE = {
    "sgd": ("rho", "sam_fraction", "split", "warmup_epochs"),
    "sam": ("sam_fraction", "split"),
    "sharpbalance": (),
}
SHORT = {"k": "sam_fraction", "dataset": "data"}  # what the papers call them


@dataclass(frozen=True)
class Job:
    """A run: a study, and the settings that it differs in from a preset."""

    preset: str
    study: str
    settings: dict[str, Any]  # by name, sorted; without those that have no effect
    experiment: Experiment
    options: Any  # the study's own settings

    @property
    def name(self) -> str:
        """Of its folder: method or study, seed, and a hash of all that defines it."""
        what = [self.preset, self.study, self.settings]
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        train = self.experiment.train
        kind = train.method if self.study == "ensemble" else self.study
        return f"{kind}-seed{train.seed}-{digest[:10]}"

    def to_dict(self) -> dict[str, Any]:
        """What `job` needs to make it again."""
        return {"preset": self.preset, "study": self.study, "settings": self.settings}


@functools.cache
def places(study: str) -> dict[str, tuple[str, str]]:
    """For each setting of a study, the part that it belongs to and its name there.

    Parts are data, model, train, and options, the study's own. `data` and `model` are
    the names of both; the data's seed is `data_seed`.
    """
    found = {}
    for part, kind in PARTS.items():
        for field in dataclasses.fields(kind):
            name = part if field.name == "name" else field.name
            name = "data_seed" if (part, name) == ("data", "seed") else name
            found[name] = (part, field.name)
    for field in dataclasses.fields(STUDIES[study].options):
        found[field.name] = ("options", field.name)
    return found


def job(preset: str, study: str, settings: dict[str, Any]) -> Job:
    """A run, checked: its names, types and ranges, and that they fit together.

    Settings without effect go back to the preset's, as rho for SGD, so that two runs
    that would be the same are the same.

    Args:
        preset: smoke, class or paper: what is not in `settings`.
        study: what is run and measured; one of `studies.STUDIES`.
        settings: any of `places(study)`.

    Raises:
        ValueError: an unknown name, with the nearest known one; a value of a wrong
            type, out of range, or that does not fit the others.
    """
    base = config.preset(preset)
    config.check_choice("study", study, tuple(STUDIES))
    known, kind = places(study), STUDIES[study]
    given: dict[str, dict[str, Any]] = {part: {} for part in (*PARTS, "options")}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(_unknown(name, study, known))
        part, field = known[name]
        given[part][field] = value
    parts = {part: getattr(base, part) for part in PARTS}
    parts |= {p: dataclasses.replace(parts[p], **given[p]) for p in PARTS if given[p]}
    parts["train"] = _without_idle(parts["train"], base.train)
    experiment = Experiment(**parts)
    options = kind.options(**given["options"])
    kind.check(experiment, options)
    differing = _differing(study, base, experiment, options)
    return Job(preset, study, differing, experiment, options)


def _without_idle(train: TrainConfig, usual: TrainConfig) -> TrainConfig:
    """Settings without effect set back, once they have been checked like all others."""
    idle = {name: getattr(usual, name) for name in IDLE[train.method]}
    if all(getattr(train, name) == value for name, value in idle.items()):
        return train
    return dataclasses.replace(train, **idle)


def _unknown(name: str, study: str, known: dict[str, tuple[str, str]]) -> str:
    near = [SHORT[name]] if name in SHORT else get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown setting {name!r}: {hint}study {study!r} knows {', '.join(known)}"


def _differing(
    study: str, base: Experiment, experiment: Experiment, options: Any
) -> dict[str, Any]:
    here = {part: getattr(experiment, part) for part in PARTS} | {"options": options}
    there = {p: getattr(base, p) for p in PARTS} | {"options": type(options)()}
    found = {}
    for name, (part, field) in places(study).items():
        value = getattr(here[part], field)
        if value != getattr(there[part], field):
            found[name] = list(value) if isinstance(value, tuple) else value
    return dict(sorted(found.items()))


def run(
    wanted: Job, folder: Path | str, shared: Path | str | None = None
) -> dict[str, Any]:
    """Do a run in a folder, go on with it, or load what it found.

    The folder holds `job.json`, what the study keeps there, and last of all
    `row.json`: the run's row of the sweep's table. A killed run, called again, goes on
    from its checkpoint. Two processes cannot work on one run at the same time.

    Args:
        wanted: the run.
        folder: of this run alone; made if need be.
        shared: a folder for what several runs need, such as their first epochs in
            common; None keeps it inside `folder`.

    Returns:
        The row: name, study, preset, all settings, what was measured, and where and
        with what. What is undefined is NaN.

    Raises:
        ValueError: the folder holds another run; another process works on it and does
            not let go; what the study raises.
    """
    folder = Path(folder)
    shared = folder / "shared" if shared is None else Path(shared)
    with files.locked(folder / "lock", PATIENCE):
        _claim(folder, wanted)
        if not (folder / ROW).exists():
            study = STUDIES[wanted.study]
            found = study.run(wanted.experiment, wanted.options, folder, shared)
            files.write_json(folder / ROW, _row(wanted, found))
        return row(folder)


def row(folder: Path) -> dict[str, Any]:
    """What a finished run found; what is undefined is NaN."""
    remedy = "delete it: the run is then measured again"
    saved = files.read_json(folder / ROW, remedy)
    if not isinstance(saved, dict):
        raise files.BrokenFileError(f"{folder / ROW} holds no row; {remedy}")
    return results.with_nan(saved)


def _claim(folder: Path, wanted: Job) -> None:
    """Say in the folder whose it is, unless it is another's."""
    path = folder / JOB
    if not path.exists():
        files.write_json(path, wanted.to_dict())
    there, here = files.read_json(path), wanted.to_dict()
    if there != json.loads(json.dumps(here)):
        raise ValueError(
            f"{folder} holds another run ({there}), this one is {here}; choose another "
            "folder or delete that one"
        )


def _row(wanted: Job, found: dict[str, Any]) -> dict[str, Any]:
    """Names, settings, results, provenance: in this order."""
    about = {"run": wanted.name, "study": wanted.study, "preset": wanted.preset}
    about |= results.settings(wanted.experiment) | dataclasses.asdict(wanted.options)
    device = str(device_of(wanted.experiment.train))
    made = results.provenance(device, float(found.get("seconds", 0.0)))
    return about | found | made
