"""Corruptions of images at severities 1 to 5: a world unlike the training data's.

The fifteen kinds of CIFAR-10-C (Hendrycks and Dietterich 2019), for images of any size.
Strengths are chosen for the small images of this course; they are not those of
CIFAR-10-C, whose published files `published` reads. `distortions` says how each kind
is made, and which strengths grow with the size of the image.
"""

from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from sbtutor import distortions

CHUNK = 2**22  # values at once; the working memory is some ten times 4 bytes each


class _Kind(NamedTuple):
    """What `corrupt` gives to the function of that name in `distortions`."""

    stream: int  # of random numbers
    strengths: tuple[float | int, ...]  # at severities 1 to 5


# Streams 0 to 4 went to the first five kinds, in the order in which they were written;
# committed results hang on them. So a stream is a number here, not a place in the list.
_KINDS = {
    "gaussian_noise": _Kind(0, (0.04, 0.07, 0.10, 0.14, 0.18)),
    "shot_noise": _Kind(5, (150.0, 80.0, 45.0, 25.0, 14.0)),
    "impulse_noise": _Kind(1, (0.02, 0.04, 0.07, 0.11, 0.16)),
    "defocus_blur": _Kind(2, (0.4, 0.6, 0.8, 1.0, 1.3)),
    "glass_blur": _Kind(6, (0.3, 0.45, 0.6, 0.8, 1.1)),
    "motion_blur": _Kind(7, (0.06, 0.10, 0.15, 0.21, 0.28)),
    "zoom_blur": _Kind(8, (0.10, 0.18, 0.27, 0.38, 0.50)),
    "snow": _Kind(9, (0.15, 0.3, 0.45, 0.6, 0.75)),
    "frost": _Kind(10, (0.3, 0.45, 0.6, 0.8, 1.0)),
    "fog": _Kind(11, (0.2, 0.35, 0.5, 0.65, 0.8)),
    "brightness": _Kind(4, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": _Kind(3, (0.75, 0.60, 0.45, 0.30, 0.20)),
    "elastic_transform": _Kind(12, (0.012, 0.02, 0.03, 0.04, 0.05)),
    "pixelate": _Kind(13, (0.85, 0.72, 0.58, 0.44, 0.33)),
    "jpeg_compression": _Kind(14, (70, 40, 24, 15, 9)),
}
KINDS = tuple(_KINDS)


def corrupt(
    images: UInt8[Tensor, "N C H W"], kind: str, severity: int, seed: int = 0
) -> UInt8[Tensor, "N C H W"]:
    """The images after one kind of corruption, on the device they are on.

    One stream of random numbers runs through the batch, so an image's noise depends on
    the whole batch: on the image's place; in shot noise on the images before it too; in
    glass blur, snow, frost and fog, which draw several times, on the number of images.
    To compare, corrupt equal batches. Six kinds draw nothing and change an image alike
    in any batch: defocus and zoom blur, brightness, contrast, pixelate and JPEG.

    Args:
        images: uint8, 1 or 3 channels, at least 3x3 pixels; an empty batch stays empty.
        kind: one of `KINDS`.
        severity: 1 (mild) to 5 (strong).
        seed: with kind and severity it decides the random numbers; every image has
            its own.

    Raises:
        ValueError: unknown kind, a severity that is not a whole number from 1 to 5,
            other images.
    """
    if kind not in _KINDS:
        raise ValueError(
            f"unknown corruption {kind!r}: choose one of {', '.join(KINDS)}"
        )
    check_severity(severity)
    _check(images)
    if len(images) == 0:
        return images.clone()
    stream, strengths = _KINDS[kind]
    generator = torch.Generator().manual_seed(1000 * seed + 10 * stream + int(severity))
    distort = getattr(distortions, kind)
    # Parts bound the memory. They are of sixteens, as torch fills in normal numbers:
    # so the eleven kinds that draw once or never give what they would give uncut (but
    # for a last part of fewer than 16 values). Glass blur, snow, frost and fog draw
    # several times, each time for the whole part: their numbers depend on `CHUNK`.
    count = 16 * max(1, CHUNK // (16 * images[0].numel()))
    after = torch.empty_like(images)
    for part, out in zip(images.split(count), after.split(count)):
        changed = distort(part.float() / 255, strengths[severity - 1], generator)
        out.copy_((changed.clamp(0, 1) * 255).round())
    return after


def check_severity(severity: int) -> None:
    """Refuse what is not a whole number from 1 to 5: a bool, a float or a str neither.

    Raises:
        ValueError: as said.
    """
    if isinstance(severity, bool | float) or severity not in range(1, 6):
        raise ValueError(
            f"severity runs from 1 to 5, got {severity!r}; write one of 1, 2, 3, 4, 5"
        )


def _check(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            "images must be uint8 (N, C, H, W), got "
            f"{images.dtype} {tuple(images.shape)}"
        )
    if images.shape[1] not in (1, 3) or min(images.shape[2:]) < 3:
        raise ValueError(
            "images need 1 or 3 channels and at least 3x3 pixels, got "
            f"{tuple(images.shape)}"
        )
