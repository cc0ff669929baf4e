"""From members and images to logits: the border between training and metrics."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sbtutor import data, files, models


@dataclass(frozen=True)
class Predictions:
    """What M members say about N samples, and what is true."""

    logits: Float[Tensor, "M N C"]
    labels: Int[Tensor, " N"]

    def save(self, path: Path) -> None:
        """Write both as a compressed `.npz`."""
        files.save_arrays(path, logits=self.logits.numpy(), labels=self.labels.numpy())

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what `save` wrote."""
        saved = files.load_arrays(path)
        return cls(*(torch.from_numpy(saved[key]) for key in ("logits", "labels")))


@torch.no_grad()
def predict(
    members: list[nn.Module], split: data.Split, batch_size: int = 1000
) -> Predictions:
    """The logits of every member for every image, in eval mode.

    Args:
        members: M networks on one device, each from images (B, C, H, W) in [0, 1] to
            logits (B, C); their train/eval mode is restored afterwards.
        split: N images and labels.
        batch_size: images at once; changes memory and speed only.

    Returns:
        logits (M, N, C) and labels (N,), on the CPU.

    Raises:
        ValueError: no members.
    """
    if not members:
        raise ValueError("predict needs at least one member, got an empty list")
    return Predictions(
        torch.stack([_logits(m, split.images, batch_size) for m in members]),
        split.labels.cpu(),
    )


def as_input(images: Tensor, like: Tensor) -> Tensor:
    """Floating images, on the device and in the precision of `like`, channels last.

    `.to(memory_format=...)` leaves the strides of images with one channel as they are,
    and then pooling, with channels first, takes several times as long on a CPU.
    """
    images = data.to_float(images.to(like.device)).to(like.dtype)
    last = torch.empty_like(images, memory_format=torch.channels_last)
    return last.copy_(images)


def _logits(member: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    like = next(member.parameters())
    with models.evaluating(member):
        return torch.cat(
            [member(as_input(b, like)).cpu() for b in images.split(batch_size)]
        )
