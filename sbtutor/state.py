"""An ensemble in training: members, weights, optimizer; what a checkpoint holds."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sbtutor import files, models
from sbtutor.config import Experiment, TrainConfig

Tensors = dict[str, Tensor]


def _stacked(tensors: list[Tensor]) -> Tensor:
    """(M, ...); convolution weights keep their channels last in memory."""
    if tensors[0].dim() != 4:
        return torch.stack(tensors)
    return torch.stack([t.permute(0, 2, 3, 1) for t in tensors]).permute(0, 1, 4, 2, 3)


def share_state(members: list[nn.Module]) -> tuple[Tensors, Tensors]:
    """Move the members' weights into common tensors, of which they become slices.

    Afterwards a change of `params[name][m]` is a change of member m, and one
    optimizer over `params` trains all members.

    Returns:
        params and buffers, each a dict from name to a tensor (M, ...).
    """
    params, buffers = {}, {}
    for name, first in members[0].named_parameters():
        own = [m.get_parameter(name).detach() for m in members]
        params[name] = _stacked(own).requires_grad_(first.requires_grad)
    for name, _ in members[0].named_buffers():
        buffers[name] = torch.stack([m.get_buffer(name) for m in members])
    for i, member in enumerate(members):
        for name, tensor in params.items():
            path, _, leaf = name.rpartition(".")
            slice_ = nn.Parameter(tensor.detach()[i], tensor.requires_grad)
            setattr(member.get_submodule(path), leaf, slice_)
        for name, tensor in buffers.items():
            path, _, leaf = name.rpartition(".")
            setattr(member.get_submodule(path), leaf, tensor[i])
    return params, buffers


@dataclass
class State:
    """Everything that training changes, and a checkpoint holds."""

    members: list[nn.Module]  # their weights are slices of params and buffers
    params: Tensors
    buffers: Tensors
    optimizer: torch.optim.Optimizer
    about: dict[str, Any]  # of the data: in_shape, classes, digest of the images
    epoch: int = 0  # epochs done
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    scores: Tensor | None = None
    sam_masks: Tensor | None = None
    seconds: float = 0.0

    SAVED = ("params", "buffers", "about", "epoch", "history", "seconds")

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        state = {name: getattr(self, name) for name in self.SAVED}
        state |= {"optimizer": self.optimizer.state_dict()}
        state |= {"scores": self.scores, "sam_masks": self.sam_masks}
        files.save_tensors(path, state)

    def restore(self, path: Path) -> None:
        """Go back to what `save` wrote.

        Raises:
            BrokenFileError: the file is damaged.
            ValueError: it belongs to other images.
        """
        remedy = "delete it and run again: training starts from the beginning"
        saved = files.load_tensors(path, remedy)
        if saved["about"] != self.about:
            raise ValueError(
                f"{path} was trained on other images: the data set has changed since; "
                "bring the old images back, or train in a new folder"
            )
        with torch.no_grad():
            for own, old in ((self.params, "params"), (self.buffers, "buffers")):
                for name, tensor in own.items():
                    tensor.copy_(saved[old][name])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name in ("epoch", "history", "seconds", "scores", "sam_masks"):
            setattr(self, name, saved[name])


def device_of(config: TrainConfig) -> torch.device:
    """The device to train on; "auto" takes a CUDA GPU if there is one.

    Raises:
        ValueError: a device that PyTorch does not know or that is not there.
    """
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(config.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device {config.device!r} cannot be used ({reason}); "
            "write device='auto' or 'cpu'"
        ) from None
    return device


def optimizer(
    config: TrainConfig, params: Iterable[Any], device: torch.device
) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over parameters, or over groups with a weight decay each."""
    common = dict(lr=config.lr, weight_decay=config.weight_decay)
    common["fused"] = device.type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        return torch.optim.SGD(params, momentum=config.momentum, **common)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind(params, betas=(config.momentum, 0.999), **common)


def fresh(experiment: Experiment, about: dict[str, Any]) -> State:
    """The members before the first step, on their device, with one optimizer.

    Args:
        experiment: architecture and training.
        about: of the data, at least `in_shape` [C, H, W] and the number of `classes`.
    """
    config, device = experiment.train, device_of(experiment.train)
    in_shape, classes = tuple(about["in_shape"]), about["classes"]
    members = [
        models.build(experiment.model, in_shape, classes, config.seed + m)
        .to(device)
        .train()
        for m in range(config.members)
    ]
    params, buffers = share_state(members)
    for param in params.values():
        param.grad = torch.empty_like(param)  # in the memory layout of the weights
    steps = optimizer(config, list(params.values()), device)
    if config.compile:
        # All compiled networks of a process share one small store of variants, and run
        # uncompiled once it is full; those of earlier runs need no room.
        torch.compiler.reset()
        for member in members:
            member.compile()
    return State(members, params, buffers, steps, about)
