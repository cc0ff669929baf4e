"""The study "star": fine-tune, then stay in the pre-train basin or leave it.

Sadrtdinov et al. 2023: Local and Global DE, SSE and StarSSE.
"""

import dataclasses
import functools
import hashlib
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from torch import nn

from sbtutor import (
    cache,
    config,
    cost,
    cycles,
    data,
    files,
    needs,
    pretrained,
    starts,
    target,
    transfer,
)
from sbtutor.batches import augmented
from sbtutor.config import DataConfig, Experiment, TrainConfig
from sbtutor.recipe import Recipe
from sbtutor.target import Target

WHAT = "Local DE, Global DE, SSE and StarSSE from pre-trained networks, and their soups"
Kind = Literal["local", "global", "sse", "star"]
Row = dict[str, float | int | str]

FEW = 1000  # training images for barriers and for BatchNorm's statistics
COPIES = 2  # of each, augmented, for these statistics
POINTS = 11  # of the line between two networks


@dataclass(frozen=True, kw_only=True)
class Options:
    """From which checkpoints members come, and how."""

    kind: Kind = "star"
    lr_factor: float = 1.0  # a cycle's learning rate over that of fine-tuning
    epoch_factor: float = 1.0  # and its epochs; both for SSE and StarSSE
    # "classes": the experiment's model, pre-trained on the other classes of the data.
    # "resnet50", "resnet50_v2": torchvision's, of ImageNet. Otherwise a file with the
    # weights of a ResNet-50, or a pattern, "byol/*.pth"; below the root of the data.
    checkpoint: str = "classes"
    target: str = ""  # classes to fine-tune to, "cat, dog"; "": the last half of all
    target_images: int | None = None  # training images of these; None: all
    pretrain_epochs: int = 20

    def __post_init__(self) -> None:
        """Refuse what cannot be; forget what has no effect."""
        config.make_plain(self)
        config.check_choice("kind", self.kind, get_args(Kind))
        transfer.scaled(TrainConfig(), self.lr_factor, self.epoch_factor)  # or refuses
        for name in ("target_images", "pretrain_epochs"):
            value = getattr(self, name)
            config.check(
                value is None or value >= 1, f"{name} must be at least 1, got {value}"
            )
        config.check(self.checkpoint != "", "checkpoint is ''; write 'classes'")
        idle = ["lr_factor", "epoch_factor"] if self.kind in ("local", "global") else []
        if self.checkpoint != "classes":
            idle += ["target", "target_images", "pretrain_epochs"]
        for name in idle:
            object.__setattr__(self, name, getattr(type(self), name))

    @property
    def recipe(self) -> Recipe:
        """The paper's for its ResNet-50; small networks have none."""
        if self.checkpoint == "classes":
            return Recipe()
        return pretrained.PAPER["supervised_resnet50"][1]

    def sources(self, members: int) -> int:
        """How many checkpoints it takes."""
        return members if self.kind == "global" else 1

    def classes(self, known: tuple[str, ...]) -> tuple[str, ...]:
        """The target's, of those that are known."""
        if self.checkpoint != "classes":
            return known
        if not self.target:
            return known[len(known) // 2 :]
        return tuple(name.strip() for name in self.target.split(","))


def check(experiment: Experiment, options: Options) -> None:
    """Refuse other training than plain steps whose rate falls as a cosine.

    Raises:
        ValueError: another method or schedule; one member; more members of a Global DE
            than there are checkpoints.
    """
    train = experiment.train
    config.check(
        train.method == "sgd" and train.schedule == "cosine",
        "cycles are trained with method='sgd', schedule='cosine', got "
        f"method={train.method!r}, schedule={train.schedule!r}",
    )
    config.check(
        train.members >= 2, f"an ensemble needs members >= 2, got {train.members}"
    )
    held = len(starts.WEIGHTS.get(options.checkpoint, ())) or math.inf
    config.check(
        options.sources(train.members) <= held,
        f"a Global DE of {train.members} takes as many checkpoints, torchvision has "
        f"{held} as {options.checkpoint!r}; write a pattern of files, or fewer members",
    )


def ready(experiment: Experiment, options: Options) -> None:
    """See that images, classes and checkpoints are there; checkpoints are downloaded.

    Raises:
        ValueError: as `needs.check`; classes that are not there or leave no source; a
            checkpoint that is missing or does not fit; grey images for a ResNet-50.
    """
    found, name = needs.check(experiment), options.checkpoint
    if name == "classes":
        root = str(cache.root(experiment.data.root))
        _check_classes(replace(experiment.data, root=root), options)
        return
    channels = found.in_shape[0]
    config.check(
        channels == 3,
        f"a ResNet-50 of ImageNet sees 3 channels, {experiment.data.name} has "
        f"{channels}; write checkpoint='classes'",
    )
    starts.load(name, options.sources(experiment.train.members), experiment.data.root)


@functools.cache
def _check_classes(images: DataConfig, options: Options) -> None:
    whole = data.load(images)
    known = whole.train.classes
    names = options.classes(known)
    for name in names:
        config.check_choice("class", name, known)
    target.split_classes(whole, names, options.target_images, seed=0)


def _images(
    experiment: Experiment, options: Options
) -> tuple[data.Split | None, Target]:
    """The source's training images, if it is pre-trained here, and the target's."""
    source, splits, train = None, data.load(experiment.data), experiment.train
    if options.checkpoint == "classes":
        source, splits = target.split_classes(
            splits,
            options.classes(splits.train.classes),
            options.target_images,
            train.seed,
        )
    few = data.subset(splits.train, min(FEW, len(splits.train.labels)), 0)
    refresh = augmented(few, train, COPIES) if source else few
    return source, Target(*splits, refresh)


def _start_folder(experiment: Experiment, options: Options, shared: Path) -> Path:
    """Of checkpoints and first member: the same for all kinds and factors."""
    one = replace(experiment, train=replace(experiment.train, members=2))
    about = dataclasses.asdict(replace(options, kind="local"))
    text = json.dumps([one.to_dict(), about], sort_keys=True)
    return shared / f"start-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def run(experiment: Experiment, options: Options, folder: Path, shared: Path) -> Row:
    """Pre-train or load, fine-tune, go on as `kind` says; one row.

    Checkpoints and first member lie in `shared`, for all kinds and factors; while one
    run trains them the others wait. A killed run goes on after its last cycle.

    Returns:
        `target.ensemble_row`, barriers on 1,000 training images, statistics from the
        same (augmented, where the network was pre-trained here); `network`;
        `cycle_epochs`, of a member after the first; seconds, of all training and of
        measuring.

    Raises:
        ValueError: as `ready`.
        FloatingPointError: a network has diverged.
    """
    source, images = _images(experiment, options)
    start, out = _start_folder(experiment, options, shared), folder / "networks"
    train = experiment.train
    with files.locked(start / "lock", math.inf):
        checkpoints = _checkpoints(experiment, options, source, start)
        (first,) = transfer.fine_tune(
            checkpoints[:1], images.train, train, start / "first", 1, options.recipe
        )
    later = _later(first, checkpoints, images.train, train, options, out)
    began = time.monotonic()
    few = data.subset(images.train, min(FEW, len(images.train.labels)), 0)
    row: Row = target.ensemble_row([first, *later], images._replace(train=few))
    row["network"] = experiment.model.name if source else "resnet50"
    row["cycle_epochs"] = _cycle(train, options).epochs
    places = [start / f"checkpoint{m}" for m in range(len(checkpoints))]
    took = sum(cycles.seconds(each) for each in (*places, start / "first", out))
    return row | {"seconds": took + time.monotonic() - began}


def _checkpoints(
    experiment: Experiment, options: Options, source: data.Split | None, start: Path
) -> list[nn.Module]:
    """Those that this kind takes; each that is pre-trained has a folder of its own."""
    train, needed = experiment.train, options.sources(experiment.train.members)
    if source is None:
        return starts.load(options.checkpoint, needed, experiment.data.root)
    one, found = replace(train, epochs=options.pretrain_epochs), []
    for m in range(needed):
        place, seeds = start / f"checkpoint{m}", [train.seed + m]
        found += transfer.pretrain(experiment.model, source, one, seeds, place, 1)
    return found


def _cycle(train: TrainConfig, options: Options) -> TrainConfig:
    return transfer.scaled(train, options.lr_factor, options.epoch_factor)


def _later(
    first: nn.Module,
    checkpoints: list[nn.Module],
    images: data.Split,
    train: TrainConfig,
    options: Options,
    out: Path,
) -> list[nn.Module]:
    """The members after the first."""
    recipe, count = options.recipe, train.members
    if options.kind in ("local", "global"):
        others = checkpoints[1:] or checkpoints * (count - 1)
        second = replace(train, seed=train.seed + 1)
        return transfer.fine_tune(others, images, second, out, 1, recipe)
    cycle = _cycle(train, options)
    if options.kind == "sse":
        return transfer.sse(first, images, cycle, count, out, recipe=recipe)[1:]
    return transfer.star_sse(first, images, cycle, count, out, None, recipe, 1)[1:]


def flops(experiment: Experiment, options: Options, sizes: cost.Sizes) -> float:
    """Of all training, prediction and measuring, at most.

    What runs of a sweep have in common, checkpoints and first member, is counted in
    each of them. A target task is taken to have its share of the images of all classes.
    """
    train, known = experiment.train, tuple(map(str, range(sizes.classes)))
    one, counts = replace(train, members=1), list(sizes[:3])
    passes, classes = 0.0, sizes.classes
    if options.checkpoint == "classes":
        classes = len(options.classes(known))
        counts = [round(n * classes / sizes.classes) for n in counts]
        pretraining = replace(one, epochs=options.pretrain_epochs)
        each = cost.gradient_passes(pretraining, sizes.train - counts[0])
        passes += options.sources(train.members) * each
    images = options.target_images or counts[0]
    passes += cost.gradient_passes(one, images)
    cycle = replace(_cycle(one, options), members=train.members - 1)
    passes += cost.gradient_passes(cycle, images)
    refresh = COPIES if options.checkpoint == "classes" else 1
    lines = (train.members - 1) * POINTS * (1 + refresh) * min(FEW, images)
    soups = (train.members + 1) * refresh * min(FEW, images)
    predicted = 2 * (train.members + 1) * (counts[1] + counts[2])
    passes += lines + soups + predicted
    if options.checkpoint != "classes":
        return passes * starts.flops(sizes.in_shape, classes)
    return passes * cost.model_flops(experiment.model, sizes.in_shape, classes)
