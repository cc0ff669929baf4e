"""What large networks are fine-tuned with, beside a `TrainConfig`."""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from sbtutor.config import TrainConfig
from sbtutor.epochs import learning_rate as _learning_rate

Augment = Literal["resized_crop", "swin"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Warm-up, smoothing, clipping, augmentation; the defaults are none of these."""

    warmup_epochs: int = 0  # in which the learning rate rises in a straight line ...
    warmup_lr: float = 0.0  # ... from here
    label_smoothing: float = 0.0  # share of a label that goes to all classes alike
    clip_norm: float | None = None  # longer gradients are shortened to this length
    augment: Augment | None = None  # after crop and flip of TrainConfig; see `augment`
    size: int = 224  # pixels of a side of an augmented image

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0 or not 0 <= self.warmup_lr < math.inf:
            raise ValueError(
                "a warm-up takes 0 epochs or more, from a learning rate >= 0, got "
                f"warmup_epochs={self.warmup_epochs}, warmup_lr={self.warmup_lr}"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing must be in [0, 1), got {self.label_smoothing}"
            )
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise ValueError(
                f"clip_norm must be positive, got {self.clip_norm}; None is no clipping"
            )
        if self.augment is not None and self.augment not in get_args(Augment):
            raise ValueError(
                f"unknown augment {self.augment!r}: choose one of "
                f"{', '.join(get_args(Augment))}, or None"
            )
        if self.size < 1:
            raise ValueError(
                f"augmented images have a size of 1 pixel or more, got {self.size}"
            )


def learning_rate(config: TrainConfig, recipe: Recipe, epoch: int) -> float:
    """The learning rate of an epoch of one cycle, counted from 0.

        e < W:  lr_0 + (lr - lr_0) e / W
        else:   lr (1 + cos(pi (e - W) / (E - W))) / 2        (schedule "cosine")

    with W = warmup_epochs, lr_0 = warmup_lr and E = epochs. The cosine begins at lr and
    its last value is above 0, as in the published code of Sadrtdinov et al. 2023. The
    milestones of schedule "multistep" are counted from the start.
    """
    if epoch < recipe.warmup_epochs:
        share = epoch / recipe.warmup_epochs
        return recipe.warmup_lr + (config.lr - recipe.warmup_lr) * share
    if config.schedule == "cosine":
        config = replace(config, epochs=config.epochs - recipe.warmup_epochs)
        epoch -= recipe.warmup_epochs
    return _learning_rate(config, epoch)
