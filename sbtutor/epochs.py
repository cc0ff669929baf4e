"""One epoch of an ensemble, and the learning rate it is trained with."""

import contextlib
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sbtutor.batches import Batch, Batches, stream
from sbtutor.config import TrainConfig
from sbtutor.gradient import loss_and_balanced_gradient
from sbtutor.state import State


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """The learning rate of an epoch, counted from 0.

    multistep: lr * lr_decay^(milestones passed); cosine: lr (1 + cos(pi e / E)) / 2.
    """
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    return config.lr * config.lr_decay ** sum(epoch >= m for m in config.milestones)


def draws(member: nn.Module) -> bool:
    """Whether a training step draws from the global generator: for dropout."""
    kinds = (nn.Dropout, nn.modules.dropout._DropoutNd)
    return any(isinstance(layer, kinds) and layer.p > 0 for layer in member.modules())


def train_epoch(state: State, batches: Batches, config: TrainConfig) -> None:
    """One pass over the data for all members; ends with a row of history each."""
    device, epoch = batches.device, state.epoch
    lr = learning_rate(config, epoch)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    masks = state.sam_masks
    if masks is None:
        masks = torch.full(
            (config.members, len(batches.labels)), config.method != "sgd"
        )
    masks = masks.to(device)
    sums, steps = torch.zeros(config.members, device=device), 0
    restored = contextlib.nullcontext()
    if draws(state.members[0]):
        gpus = [device] if device.type == "cuda" else []
        restored = torch.random.fork_rng(devices=gpus)
    with restored:
        for batch in batches.epoch(epoch):
            losses = train_step(state, batch, masks, config, steps)
            _check_finite(losses, epoch, steps, lr)
            sums, steps = sums + losses, steps + 1
    for m, loss in enumerate((sums / steps).tolist()):
        state.history.append({"epoch": epoch, "member": m, "lr": lr, "loss": loss})
    _check_weights(state, epoch, lr)
    state.epoch += 1


def train_step(
    state: State, batch: Batch, masks: Tensor, config: TrainConfig, step: int
) -> Float[Tensor, " M"]:
    """One step of all members: each one's gradient goes into its slice.

    Where there is dropout, seeds the global generator, which it draws from, for each
    member and step; `train_epoch` puts it back afterwards.

    Returns the members' losses before the step.
    """
    losses = []
    for m, member in enumerate(state.members):
        if draws(member):
            key = (config.seed + m, state.epoch, step, "dropout")
            torch.manual_seed(stream(*key).initial_seed())
        with torch.autocast(batch.images.device.type, torch.bfloat16, config.bf16):
            loss, slopes = loss_and_balanced_gradient(
                member,
                batch.images[m],
                batch.labels[m],
                masks[m, batch.index[m]],
                config.rho,
            )
        losses.append(loss)
        for name, param in state.params.items():
            param.grad[m].copy_(slopes[name])
    state.optimizer.step()
    return torch.stack(losses)


def _check_finite(losses: Tensor, epoch: int, step: int, lr: float) -> None:
    if losses.isfinite().all():
        return
    member = int((~losses.isfinite()).nonzero()[0])
    raise FloatingPointError(
        f"the loss of member {member} is {losses[member].item()} at epoch {epoch}, "
        f"step {step}, learning rate {lr:g}; lower lr or rho and use a new folder; "
        "the checkpoint of the last good epoch is kept"
    )


def _check_weights(state: State, epoch: int, lr: float) -> None:
    """The last step of an epoch can spoil the weights after its loss was taken."""
    if all(p.isfinite().all() for p in state.params.values()):
        return
    raise FloatingPointError(
        f"weights are no longer finite after epoch {epoch}, learning rate {lr:g}; "
        "lower lr or rho and use a new folder; the checkpoint of the last good epoch "
        "is kept"
    )
