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


def _logits(member: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    like = next(member.parameters())
    with models.evaluating(member):
        return torch.cat(
            [
                member(data.to_float(batch.to(like.device)).to(like.dtype)).cpu()
                for batch in images.split(batch_size)
            ]
        )
