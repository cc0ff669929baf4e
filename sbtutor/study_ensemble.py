"""The study "ensemble": train one, measure how good, how different, how sharp it is."""

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

from sbtutor import (
    cache,
    config,
    cost,
    data,
    evaluate,
    files,
    needs,
    published,
    train,
)
from sbtutor.config import DataConfig, Experiment
from sbtutor.corruptions import KINDS
from sbtutor.predict import predict

WHAT = "an ensemble's quality, diversity and sharpness, in distribution and under shift"
Row = dict[str, float | int | str]

# Passes forward that one measure takes for each image and member, about.
HVP = 9  # a Hessian times a vector: a gradient of a gradient
SHARPNESS_PASSES = 1 + 3 + 1 + 3 + evaluate.PROBES * HVP  # SAM's rise, Fisher, Hessian
REACH_PASSES = 2 * 20 * 3 + evaluate.DRAWS + 30 * HVP  # ascents, draws, eigenvalue


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured beyond `train.fit`'s own metrics."""

    # Folder of CIFAR-10-C, CIFAR-100-C or TinyImageNet-C, inside that of the data or an
    # absolute path: all 15 kinds x 5 severities are predicted.
    corrupted: str | None = None
    reach: bool = False  # adaptive worst-case measures, average case, top eigenvalue

    def __post_init__(self) -> None:
        """Refuse values of a wrong type."""
        config.make_plain(self)
        config.check(
            self.corrupted != "",
            "corrupted is the folder of a published corrupted set, got ''; for none "
            "leave it out",
        )


def check(experiment: Experiment, options: Options) -> None:
    """Refuse a corrupted set beside images that have none.

    Raises:
        ValueError: `corrupted` with a set of digits or clothes.
    """
    name = experiment.data.name
    config.check(
        options.corrupted is None or not name.startswith(("digits", "fashion-")),
        f"no corrupted version of {name} is published, so corrupted="
        f"{options.corrupted!r} does not fit; use data cifar10, cifar100 or "
        "tiny-imagenet, or leave corrupted out",
    )


def ready(experiment: Experiment, options: Options) -> None:
    """See that the images, the device and the corrupted set are there.

    Raises:
        ValueError: as `needs.check` and the loaders of `published`; corrupted images of
            another shape, classes in another order than the published labels'.
    """
    found = needs.check(experiment)
    if options.corrupted is None:
        return
    images = experiment.data
    split = _corrupted(options.corrupted, KINDS[0], 1, images, found.classes)
    shape = tuple(split.images.shape[1:])
    config.check(
        shape == found.in_shape,
        f"{_place(options.corrupted, images)} has images of shape {shape}, "
        f"{images.name} of {found.in_shape}; give the folder that belongs to it",
    )


def _place(folder: str, images: DataConfig) -> Path:
    return cache.root(images.root) / Path(folder).expanduser()


def _corrupted(
    folder: str, kind: str, severity: int, images: DataConfig, classes: tuple[str, ...]
) -> data.Split:
    """One kind and severity of a published set, resized as the clean images are."""
    place = _place(folder, images)
    if any(place.glob("*.npy")):
        _check_order(place, classes)
        split = published.load_cifar_c(place, kind, severity, classes)
    else:
        split = published.load_tiny_imagenet_c(place, kind, severity, classes)
    return split if images.size is None else data.resized(split, images.size)


def _check_order(folder: Path, classes: tuple[str, ...]) -> None:
    """CIFAR's labels number the classes by their names' alphabetical order."""
    numbers = all(name.isdigit() for name in classes)
    config.check(
        list(classes) == sorted(classes, key=int if numbers else str),
        f"{folder} numbers classes in alphabetical order, the clean set does not "
        f"({', '.join(classes[:5])}, ...); import it with the classes' own names",
    )


def run(experiment: Experiment, options: Options, folder: Path, shared: Path) -> Row:
    """Train or resume in `folder`/run, measure, and give one row.

    What is measured beyond the metrics is kept beside them, kind by kind, so that a
    killed run goes on there.

    Returns:
        All metrics of `train.fit`; `sam_share`, the share of samples that a member
        trains with SAM after T_d; with `reach` those of `evaluate.reach_row`; with
        `corrupted` `corrupted_*`, the unweighted mean of `evaluate.predictions_row`
        over the 75 pairs of kind and severity; seconds and device.

    Raises:
        ValueError: as `train.fit` and `ready`.
    """
    trained = train.fit(experiment, folder / "run", trunks=shared / "trunks")
    made = files.read_json(trained.out / "provenance.json")
    share = float(experiment.train.method != "sgd")
    if trained.sam_masks is not None:
        share = float(trained.sam_masks.float().mean())
    row, seconds = trained.metrics | {"sam_share": share}, made["seconds"]
    if options.reach:
        found = _reach(trained)
        seconds += found.pop("measured_seconds")
        row |= found
    if options.corrupted is not None:
        found = _published(trained, options.corrupted)
        seconds += found.pop("measured_seconds")
        row |= {f"corrupted_{name}": value for name, value in found.items()}
    return row | {"seconds": seconds, "device": made["device"]}


def _reach(trained: train.Run) -> dict[str, float]:
    kept = trained.out / "reach.json"
    if not kept.exists():
        start, images = time.monotonic(), data.load(trained.experiment.data).train
        found = evaluate.reach_row(trained.members, images)
        found["measured_seconds"] = time.monotonic() - start
        files.write_json(kept, found)
    return _numbers(files.read_json(kept))


def _published(trained: train.Run, folder: str) -> dict[str, float]:
    """Mean over kinds and severities; the sum of seconds."""
    kept, images = trained.out / "corrupted.json", trained.experiment.data
    found = files.read_json(kept) if kept.exists() else {}
    classes = needs.images(images).classes
    for kind in KINDS:
        if kind not in found:
            found[kind] = []
            for severity in range(1, 6):
                start = time.monotonic()
                split = _corrupted(folder, kind, severity, images, classes)
                row = evaluate.predictions_row(predict(trained.members, split))
                row["measured_seconds"] = time.monotonic() - start
                found[kind].append(row)
            files.write_json(kept, found)
    rows = [_numbers(row) for row in itertools.chain(*files.read_json(kept).values())]
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    return mean | {"measured_seconds": sum(row["measured_seconds"] for row in rows)}


def _numbers(saved: dict[str, float | None]) -> dict[str, float]:
    """JSON knows no NaN."""
    return {k: float("nan") if v is None else v for k, v in saved.items()}


def flops(experiment: Experiment, options: Options, sizes: cost.Sizes) -> float:
    """Of training, all predictions and measures of the whole ensemble; an estimate.

    A Hessian times a vector counts as nine passes forward, the search for its largest
    eigenvalue as thirty of them. First epochs that runs share are counted in each.
    """
    few = min(evaluate.SHIFT_IMAGES, sizes.test)
    pairs = len(evaluate.KINDS) * len(evaluate.SEVERITIES)
    passes = sizes.val + sizes.test + pairs * few
    passes += SHARPNESS_PASSES * min(evaluate.SHARPNESS_IMAGES, sizes.train)
    if options.reach:
        passes += REACH_PASSES * min(evaluate.REACH_IMAGES, sizes.train)
    if options.corrupted is not None:
        passes += len(KINDS) * 5 * sizes.test
    passes *= experiment.train.members
    passes += cost.gradient_passes(experiment.train, sizes.train)
    return passes * cost.model_flops(experiment.model, sizes.in_shape, sizes.classes)
