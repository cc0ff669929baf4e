"""A pool of networks that differ in hyperparameters, first weights and data order."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sbtutor import data, files, models, workers
from sbtutor.batches import stream
from sbtutor.config import DataConfig, Experiment, ModelConfig, TrainConfig
from sbtutor.predict import Predictions, predict
from sbtutor.space import Space
from sbtutor.state import device_of
from sbtutor.trial import OBEYED, Trial, check, model_config, names, train_one

REMEDY = "delete it and run the same again: only this one network is trained anew"


@dataclass(frozen=True)
class Pool:
    """P trained networks and what they say about the images."""

    trials: list[Trial]
    val: Predictions  # logits (P, N, C); a network's are NaN if it diverged
    test: Predictions
    paths: list[Path]  # the file of each network
    seconds: list[float]  # that its training took

    def __len__(self) -> int:
        return len(self.trials)

    @property
    def folder(self) -> Path:
        """Where the networks are kept."""
        return self.paths[0].parent

    @property
    def diverged(self) -> list[int]:
        """The networks whose training or predictions did not stay finite."""
        bad = self.val.logits.isnan().any(2).any(1)
        return bad.nonzero().flatten().tolist()

    def take(self, indices: Sequence[int]) -> "Pool":
        """The pool of these networks, in this order."""
        index = list(indices)
        val, test = (
            Predictions(part.logits[index], part.labels)
            for part in (self.val, self.test)
        )
        trials, paths, seconds = (
            [column[i] for i in index]
            for column in (self.trials, self.paths, self.seconds)
        )
        return Pool(trials, val, test, paths, seconds)

    def finite(self) -> "Pool":
        """The pool without the networks that diverged.

        Raises:
            ValueError: all of them did.
        """
        bad = set(self.diverged)
        if len(bad) == len(self):
            raise ValueError(
                f"all {len(self)} networks of the pool diverged; lower lr, or search "
                "a space with smaller l2"
            )
        return self.take([i for i in range(len(self)) if i not in bad])

    def model(self, i: int) -> nn.Module:
        """Network i in eval mode, on the GPU if there is one."""
        saved = files.load_tensors(self.paths[i], REMEDY)
        config = ModelConfig(**saved["about"]["model"])
        model = models.build(config, tuple(saved["in_shape"]), saved["classes"], 0)
        model.load_state_dict(saved["weights"])
        return model.to(device_of(TrainConfig())).eval()


def digest(splits: data.Splits) -> str:
    """A hash of all pixels and labels."""
    found = hashlib.sha256()
    for split in splits:
        found.update(repr(tuple(split.images.shape)).encode())
        found.update(split.images.contiguous().numpy())
        found.update(split.labels.numpy())
    return found.hexdigest()


@functools.lru_cache(maxsize=1)
def _splits(config: DataConfig) -> data.Splits:
    """The images, read once in each process."""
    return data.load(config)


def _abouts(experiment: Experiment, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """All that each trained network depends on, but for the machine."""
    common = {
        "images": digest(_splits(experiment.data)),
        "train": {name: getattr(experiment.train, name) for name in OBEYED},
    }
    return [
        common
        | {"model": dataclasses.asdict(model_config(experiment, trial))}
        | {"trial": dataclasses.asdict(trial)}
        for trial in trials
    ]


def _path(out: Path | str, about: dict[str, Any]) -> Path:
    text = json.dumps(about, sort_keys=True)
    return Path(out) / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.pt"


def locate(
    experiment: Experiment, trials: Sequence[Trial], out: Path | str
) -> list[Path]:
    """The file of each trial in the folder `out`, whether it is there or not."""
    return [_path(out, about) for about in _abouts(experiment, trials)]


def _train_into(
    experiment: Experiment, patience: float, item: tuple[Path, dict[str, Any]]
) -> None:
    """Train one network, unless another process does so for longer than `patience`."""
    path, about = item
    lock = path.with_suffix(".lock")
    try:
        with files.locked(lock, patience):
            if not path.exists():
                files.save_tensors(path, _trained(experiment, about))
    except files.LockedError:
        return
    with contextlib.suppress(OSError):  # another process has removed it, or opened it
        lock.unlink()


def _trained(experiment: Experiment, about: dict[str, Any]) -> dict[str, Any]:
    """A new network and all about it."""
    start, splits = time.monotonic(), _splits(experiment.data)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of floats depend on it, and results must not
    try:
        model = train_one(experiment, splits.train, Trial(**about["trial"]))
        val, test = (predict([model], s).logits[0] for s in (splits.val, splits.test))
    finally:
        torch.set_num_threads(threads)
    if not (val.isfinite().all() and test.isfinite().all()):
        val, test = torch.full_like(val, torch.nan), torch.full_like(test, torch.nan)
    return {
        "about": about,
        "in_shape": list(splits.train.images.shape[1:]),
        "classes": len(splits.train.classes),
        "weights": {name: t.cpu() for name, t in model.state_dict().items()},
        "val": val,
        "test": test,
        "seconds": time.monotonic() - start,
    }


def train(
    experiment: Experiment,
    trials: Sequence[Trial],
    out: Path | str,
    jobs: int | None = None,
) -> Pool:
    """Train one network a trial, or load those that were trained before.

    Each network is one file of the folder `out`, named by a hash of all that it
    depends on and written once it is trained. So a killed call, made again, goes on
    where it stopped, and searches that need the same network train it once. The
    number of processes changes nothing, bit for bit on one machine's CPU.

    Args:
        experiment: data, model and training, as in `train_one`.
        trials: one a network.
        out: the folder; other pools may lie there, too.
        jobs: processes at once; None takes all cores.

    Raises:
        ValueError: as `train_one`; no trials; a broken file (names it).
        RuntimeError: a process died.
        OSError: the disk is full; what was saved stays.
    """
    if not trials:
        raise ValueError("a pool needs at least one trial, got none")
    _splits.cache_clear()  # the images may have been imported anew
    splits = _splits(experiment.data)
    check(experiment, splits.train, trials)
    abouts = _abouts(experiment, trials)
    paths = [_path(out, about) for about in abouts]
    for patience in (0.0, math.inf):  # first those that nobody else trains
        missing = {p: about for p, about in zip(paths, abouts) if not p.exists()}
        task = functools.partial(_train_into, experiment, patience)
        workers.run(task, missing.items(), jobs, f"networks of {Path(out).name}")
    saved = [_load(path) for path in paths]
    val, test = (
        Predictions(torch.stack([s[part] for s in saved]), getattr(splits, part).labels)
        for part in ("val", "test")
    )
    return Pool(list(trials), val, test, paths, [s["seconds"] for s in saved])


def _load(path: Path) -> dict[str, Tensor | float]:
    saved = files.load_tensors(path, REMEDY)
    return {key: saved[key] for key in ("val", "test", "seconds")}  # not the weights


def seed_of(*key: int | str) -> int:
    """A seed of its own for each key, below 2^31."""
    return stream(*key).initial_seed() % 2**31


def search(
    experiment: Experiment,
    size: int,
    out: Path | str,
    space: Space = Space(),  # noqa: B008 (frozen)
    seed: int = 0,
    jobs: int | None = None,
    fixed_init: bool = True,
) -> Pool:
    """Random search: networks with hyperparameters drawn from a space.

    Step 1 of Algorithm 1 of Wenzel et al. 2020. All networks start from the same
    weights; each has its own order of the data. The first 20 of a search of 50 are
    a search of 20.

    Args:
        experiment: as in `train`.
        size: kappa, the number of networks.
        out: as in `train`.
        space: the hyperparameters' ranges.
        seed: of the draws and, with fixed_init, of the first weights.
        jobs: as in `train`.
        fixed_init: False gives each network its own first weights, as the published
            code does, unlike the paper.

    Raises:
        ValueError: size < 1, or as `train`.
    """
    if size < 1:
        raise ValueError(f"a search needs at least one network, got size={size}")
    seed, wanted = int(seed), names(experiment, _splits(experiment.data).train)
    trials = [
        Trial(
            settings=space.draw(wanted, stream(seed, "search", i)),
            init=seed if fixed_init else seed_of(seed, "init", i),
            order=seed_of(seed, "order", i),
        )
        for i in range(size)
    ]
    return train(experiment, trials, out, jobs)
