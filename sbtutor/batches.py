"""An epoch's batches for all members at once, augmented where the images lie."""

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sbtutor import data
from sbtutor.config import TrainConfig


def stream(*key: int | str) -> torch.Generator:
    """A random generator of its own for each member, epoch and purpose.

    So that the order of execution, and a resumed run, change nothing.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Batch:
    """What the M members see in one step: each its own B samples."""

    index: Int[Tensor, "M B"]  # positions in the training split; stays on the CPU,
    # where masks are looked up, so that a GPU is not waited for
    images: Float[Tensor, "M B C H W"]
    labels: Int[Tensor, "M B"]


class Batches:
    """The training split on the device, padded once for random crops."""

    def __init__(
        self, split: data.Split, config: TrainConfig, device: torch.device
    ) -> None:
        """Keep the images as uint8, channels last: a crop is then one gather."""
        self.config, self.device = config, device
        self.height, self.width = split.images.shape[2:]
        padded = F.pad(split.images.to(device), (config.crop,) * 4)
        self.pixels = padded.permute(0, 2, 3, 1).contiguous()
        self.labels = split.labels.to(device)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """All samples once, in an order of its own for each member.

        The batches' sizes differ by at most one, so that none is tiny: none has one
        sample alone, which BatchNorm could not normalise.
        """
        seeds = [self.config.seed + m for m in range(self.config.members)]
        samples = len(self.labels)
        order = torch.stack(
            [
                torch.randperm(samples, generator=stream(s, epoch, "order"))
                for s in seeds
            ]
        )
        moves = torch.stack([self._moves(s, epoch) for s in seeds])
        count = math.ceil(samples / self.config.batch_size)
        count = max(1, min(count, samples // 2))
        there = (order.to(self.device), moves.to(self.device))
        parts = (t.tensor_split(count, dim=1) for t in (order, *there))
        for index, at, move in zip(*parts, strict=True):
            images = self._take(at.flatten(), move.flatten(0, 1))
            images = data.to_float(images.unflatten(0, at.shape))
            yield Batch(index, images.permute(0, 1, 4, 2, 3), self.labels[at])

    def _moves(self, seed: int, epoch: int) -> Int[Tensor, "N 3"]:
        """For each sample of an epoch: rows down, columns right, flipped or not."""
        generator = stream(seed, epoch, "augment")
        limits = (2 * self.config.crop + 1, 2 * self.config.crop + 1, 2)
        shape = (len(self.labels),)
        return torch.stack(
            [torch.randint(n, shape, generator=generator) for n in limits], dim=1
        )

    def _take(self, index: Int[Tensor, " n"], move: Int[Tensor, "n 3"]) -> Tensor:
        """Gather samples (n, H, W, C), cropped and flipped."""
        if not (self.config.crop or self.config.flip):
            return self.pixels[index]
        down, right, flipped = (column[:, None] for column in move.unbind(1))
        rows = torch.arange(self.height, device=self.device) + down
        columns = torch.arange(self.width, device=self.device).expand(len(index), -1)
        if self.config.flip:
            columns = torch.where(flipped == 1, columns.flip(1), columns)
        columns = columns + right
        return self.pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def augmented(split: data.Split, config: TrainConfig, copies: int = 1) -> data.Split:
    """The images as training sees them: cropped and flipped, in several versions.

    What BatchNorm's statistics are re-estimated on, if they are to be those that
    training would have left: zero padding and crops change the mean and the variance.

    Args:
        split: N training images.
        config: crops, flips, and the seed that draws them.
        copies: versions of each image.

    Returns:
        copies * N images with their labels.

    Raises:
        ValueError: fewer than one copy.
    """
    if copies < 1:
        raise ValueError(f"copies must be at least 1, got {copies}")
    one = dataclasses.replace(config, method="sgd", members=1)
    batches = Batches(split, one, torch.device("cpu"))
    parts = [part for epoch in range(copies) for part in batches.epoch(epoch)]
    pixels = torch.cat([part.images[0] for part in parts]) * 255
    labels = torch.cat([part.labels[0] for part in parts])
    return data.Split(pixels.round().to(torch.uint8), labels, split.classes)
