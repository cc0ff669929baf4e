"""One pass of one network over the images, by stock optimizers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbtutor.batches import Batches

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    epoch: int,
    smoothing: float = 0.0,
    clip_norm: float | None = None,
    change: Change | None = None,
) -> Tensor:
    """All images once, a step for each batch, with the learning rate as it is.

        loss = 1/B sum_b CE(f(x_b), (1 - s) y_b + s / C)

    Args:
        model: in train mode, on the device of the batches.
        optimizer: of its parameters.
        batches: of one member.
        epoch: decides order and augmentation.
        smoothing: s, the share of a label that goes to all C classes alike.
        clip_norm: a longer gradient is shortened to this length; None: never.
        change: from images (B, C, H, W) and labels (B,) to what the network is shown:
            images and labels (B,), or class probabilities (B, C).

    Returns:
        The mean of the batches' losses, a scalar on the device.
    """
    kind, bf16 = batches.device.type, batches.config.bf16
    dtype = next(model.parameters()).dtype
    losses = []
    for batch in batches.epoch(epoch):
        images, targets = batch.images[0].to(dtype), batch.labels[0]
        if change is not None:
            images, targets = change(images, targets)
        optimizer.zero_grad()
        with torch.autocast(kind, torch.bfloat16, bf16):
            logits = model(images)
            loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean()
