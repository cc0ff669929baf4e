"""The published corrupted sets, CIFAR-10-C, CIFAR-100-C and TinyImageNet-C, as splits.

Hendrycks and Dietterich (2019). Images keep the published order, the same for every
kind and severity, and are not shuffled: for fewer of them, class-balanced and again the
same for all, write `data.subset(split, count, seed)`.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from sbtutor import cache
from sbtutor.corruptions import KINDS, check_severity
from sbtutor.data import Split

# Four further kinds that the folders hold; the papers' averages leave them out.
EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def load_cifar_c(
    folder: Path | str, kind: str, severity: int, classes: Sequence[str] | None = None
) -> Split:
    """The test images of CIFAR-10-C or CIFAR-100-C under one kind and severity.

    Args:
        folder: holds one `<kind>.npy`, uint8 (5 N, H, W, 3), for each kind, severity
            after severity, and `labels.npy` (5 N,); N is 10,000 as published.
        kind: one of `corruptions.KINDS`, or of the four of `EXTRA` that are there.
        severity: 1 (mild) to 5 (strong).
        classes: names by label. None: CIFAR-10's for labels below 10, else "0" to
            "99".

    Raises:
        ValueError: unknown kind or severity; no folder; missing, damaged or
            ill-fitting files; a label that names no class.
    """
    folder = _folder(folder)
    check_severity(severity)
    _check_kind(kind, [k for k in EXTRA if (folder / f"{k}.npy").is_file()])
    names = [f"{name}.npy" for name in (*KINDS, "labels")]
    _refuse_missing(folder, [name for name in names if not (folder / name).is_file()])
    images, labels = _array(folder / f"{kind}.npy"), _array(folder / "labels.npy")
    _check_labels(labels, folder / "labels.npy")
    if images.dtype != np.uint8 or images.shape != (len(labels), *images.shape[1:3], 3):
        raise ValueError(
            f"{folder / kind}.npy must be uint8 ({len(labels)}, H, W, 3), a row for "
            f"each of labels.npy, got {images.dtype} {images.shape}; fetch it again"
        )
    count = len(labels) // 5
    rows = slice((severity - 1) * count, severity * count)
    pixels = np.array(images[rows].transpose(0, 3, 1, 2), order="C")
    targets = torch.from_numpy(labels[rows].astype(np.int64))
    if classes is None:
        hundred = tuple(map(str, range(100)))
        classes = CIFAR10_CLASSES if labels.max() < 10 else hundred
    return Split(torch.from_numpy(pixels), targets, tuple(classes))


def load_tiny_imagenet_c(
    folder: Path | str, kind: str, severity: int, classes: Sequence[str]
) -> Split:
    """The validation images of TinyImageNet-C under one kind and severity.

    Args:
        folder: holds `<kind>/<severity>/<class>/*.JPEG`, a class being a WordNet id.
        kind: one of `corruptions.KINDS`.
        severity: 1 (mild) to 5 (strong).
        classes: the clean set's, in its order (`data.load(...).test.classes`), so that
            labels agree.

    Returns:
        RGB images, class by class and by file name.

    Raises:
        ValueError: unknown kind or severity; no folder; missing folders; classes other
            than those given; no images; unreadable ones, or of different sizes.
    """
    folder = _folder(folder)
    check_severity(severity)
    _check_kind(kind, [k for k in EXTRA if (folder / k).is_dir()])
    places = [f"{name}/{level}" for name in KINDS for level in range(1, 6)]
    _refuse_missing(folder, [p for p in places if not (folder / p).is_dir()])
    place = folder / kind / str(severity)
    _check_classes(place, classes)
    images, labels = [], []
    for label, name in enumerate(classes):
        files = [p for p in (place / name).iterdir() if _is_image(p)]
        if not files:
            raise ValueError(f"{place / name} has no images; unpack the set again")
        images += [_pixels(path) for path in sorted(files)]
        labels += [label] * len(files)
    sizes = sorted({f"{image.shape[2]}x{image.shape[1]}" for image in images})
    if len(sizes) > 1:
        raise ValueError(
            f"{place} has images of {' and '.join(sizes)} pixels; all need one size"
        )
    return Split(
        torch.from_numpy(np.stack(images)), torch.tensor(labels), tuple(classes)
    )


def _folder(folder: Path | str) -> Path:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no folder; fetch the published set, unpack it, and give the "
            "folder that holds its kinds"
        )
    return folder


def _check_kind(kind: str, extra: list[str]) -> None:
    if kind not in (*KINDS, *extra):
        raise ValueError(
            f"unknown corruption {kind!r}: choose one of {', '.join([*KINDS, *extra])}"
        )


def _refuse_missing(folder: Path, missing: list[str]) -> None:
    if missing:
        raise ValueError(
            f"{folder} lacks {', '.join(missing)}; fetch the published set again, or "
            "give the folder that holds them"
        )


def _array(path: Path) -> np.ndarray:
    """A `.npy` file, read from disk only where it is looked at; never a pickle."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is cut short or no .npy file ({error}); fetch it again"
        ) from None


def _check_labels(labels: np.ndarray, path: Path) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path} must be one row of whole numbers, got {labels.dtype} "
            f"{labels.shape}; fetch it again"
        )
    if len(labels) == 0 or len(labels) % 5:
        raise ValueError(
            f"{path} has {len(labels)} labels, not the same number for each of five "
            "severities; fetch it again"
        )
    if (labels.reshape(5, -1) != labels[: len(labels) // 5]).any():
        raise ValueError(
            f"{path} has other labels at other severities, where each should see the "
            "same images; fetch it again"
        )


def _check_classes(place: Path, classes: Sequence[str]) -> None:
    found = {path.name for path in place.iterdir() if path.is_dir()}
    for which, names in (
        ("lacks", set(classes) - found),
        ("has folders that are no class of the clean set:", found - set(classes)),
    ):
        if names:
            some = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise ValueError(
                f"{place} {which} {some}; its {len(found)} folders must be the "
                f"{len(classes)} classes given, those of the clean set"
            )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in cache.IMAGES and not path.name.startswith(".")


def _pixels(path: Path) -> np.ndarray:
    """uint8 (3, H, W); a grey picture is repeated."""
    pixels = cache.decoded(PurePosixPath(path), path.read_bytes(), size=None)
    return np.broadcast_to(pixels, (3, *pixels.shape[1:]))
