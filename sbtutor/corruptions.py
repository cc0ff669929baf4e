"""Corruptions of images at severities 1 to 5: a world unlike the training data's.

Five kinds after Hendrycks and Dietterich (2019), for images of any size. Strengths are
chosen for the small images of this course; they are not those of CIFAR-10-C.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as T

Images = Float[Tensor, "N C H W"]


def _gaussian_noise(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Add independent normal noise to each pixel."""
    deviation = (0.04, 0.07, 0.10, 0.14, 0.18)[severity - 1]
    return x + deviation * torch.randn(x.shape, generator=generator).to(x.device)


def _impulse_noise(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Make single pixels black or white."""
    share = (0.02, 0.04, 0.07, 0.11, 0.16)[severity - 1]
    u = torch.rand(x.shape, generator=generator).to(x.device)
    return torch.where(u < share, (u < share / 2).to(x.dtype), x)


def _defocus_blur(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Blur with a Gaussian whose width, in pixels, grows with the severity."""
    width = (0.4, 0.6, 0.8, 1.0, 1.3)[severity - 1]
    return T.gaussian_blur(x, kernel_size=[5, 5], sigma=[width, width])


def _contrast(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Move all pixels towards their image's mean."""
    kept = (0.75, 0.60, 0.45, 0.30, 0.20)[severity - 1]
    mean = x.mean((2, 3), keepdim=True)
    return mean + kept * (x - mean)


def _brightness(x: Images, severity: int, generator: torch.Generator) -> Images:
    """Make all pixels lighter."""
    return x + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]


_CORRUPT: dict[str, Callable[[Images, int, torch.Generator], Images]] = {
    "gaussian_noise": _gaussian_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "contrast": _contrast,
    "brightness": _brightness,
}
KINDS = tuple(_CORRUPT)


def corrupt(
    images: UInt8[Tensor, "N C H W"], kind: str, severity: int, seed: int = 0
) -> UInt8[Tensor, "N C H W"]:
    """The images after one kind of corruption.

    Args:
        images: uint8, of any size, 1 or 3 channels.
        kind: one of `KINDS`.
        severity: 1 (mild) to 5 (strong).
        seed: with kind and severity it decides the random numbers.

    Raises:
        ValueError: unknown kind, a severity outside 1 to 5, images that are not uint8.
    """
    if kind not in _CORRUPT:
        raise ValueError(
            f"unknown corruption {kind!r}: choose one of {', '.join(KINDS)}"
        )
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity runs from 1 to 5, got {severity}")
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            "images must be uint8 (N, C, H, W), got "
            f"{images.dtype} {tuple(images.shape)}"
        )
    generator = torch.Generator()
    generator.manual_seed(1000 * seed + 10 * KINDS.index(kind) + severity)
    changed = _CORRUPT[kind](images.float() / 255, severity, generator)
    return (changed.clamp(0, 1) * 255).round().to(torch.uint8)
