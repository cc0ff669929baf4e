"""One epoch of an ensemble, and the learning rate it is trained with."""

import contextlib
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sbtutor import gpu
from sbtutor.batches import Batch, Batches, stream
from sbtutor.config import TrainConfig
from sbtutor.gradient import loss_and_balanced_gradient
from sbtutor.state import State

LOOK_EVERY = 50  # steps between two looks at the losses: each waits for the GPU


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


@contextlib.contextmanager
def _own_randomness(state: State, device: torch.device) -> Iterator[None]:
    """Put the global generators back, if the members draw from them."""
    if not draws(state.members[0]):
        yield
        return
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        yield


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
    masks = masks.cpu()
    one_size, losses = not masks.any() or bool(masks.all()), []
    with _own_randomness(state, device), gpu.settings(device, one_size):
        for step, batch in enumerate(batches.epoch(epoch)):
            losses.append(train_step(state, batch, masks, config, step))
            if len(losses) % LOOK_EVERY == 0:
                _check_finite(losses, epoch, lr)
    _check_finite(losses, epoch, lr)
    for m, loss in enumerate((sum(losses) / len(losses)).tolist()):
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
    losses, device = [], batch.images.device
    with gpu.lanes(len(state.members), device) as lanes:
        for m, (member, lane) in enumerate(zip(state.members, lanes, strict=True)):
            if draws(member):
                key = (config.seed + m, state.epoch, step, "dropout")
                torch.manual_seed(stream(*key).initial_seed())
            with lane, torch.autocast(device.type, torch.bfloat16, config.bf16):
                loss, slopes = loss_and_balanced_gradient(
                    member,
                    batch.images[m],
                    batch.labels[m],
                    masks[m, batch.index[m]],
                    config.rho,
                )
                own = [param.grad[m] for param in state.params.values()]
                torch._foreach_copy_(own, [slopes[name] for name in state.params])
            losses.append(loss)
    state.optimizer.step()
    return torch.stack(losses)


def _check_finite(losses: list[Tensor], epoch: int, lr: float) -> None:
    wrong = (~torch.stack(losses).isfinite()).nonzero().tolist()
    if not wrong:
        return
    step, member = wrong[0]
    raise FloatingPointError(
        f"the loss of member {member} is {losses[step][member].item()} at epoch "
        f"{epoch}, step {step}, learning rate {lr:g}; lower lr or rho and use a new "
        "folder; the checkpoint of the last good epoch is kept"
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
