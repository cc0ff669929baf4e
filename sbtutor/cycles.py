"""Networks trained on from where they stand, for one cycle or for several in turn."""

import copy
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from sbtutor import data, files, recipe, workers
from sbtutor.batches import Batches, stream
from sbtutor.config import TrainConfig
from sbtutor.descent import Change, train_epoch
from sbtutor.fits import check_fits
from sbtutor.recipe import Recipe
from sbtutor.state import device_of, optimizer

# The fields of TrainConfig that a cycle obeys. The others belong to other methods, or
# change only where and how fast it is trained.
OBEYED = (
    *("epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "seed"),
    *("schedule", "milestones", "lr_decay", "crop", "flip", "bf16"),
)
REMEDY = "delete it and run the same again: only this one cycle is trained anew"
Row = dict[str, int | float]


@dataclass(frozen=True)
class Task:
    """What one network goes through: cycles, each from the end of the one before."""

    start: nn.Module
    config: TrainConfig  # of one cycle; cycle c draws its data order from seed + c
    cycles: int = 1
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        _check_settings(self.config, self.recipe)
        if self.cycles < 1:
            raise ValueError(f"a task has 1 cycle or more, got {self.cycles}")


def _check_settings(config: TrainConfig, how: Recipe) -> None:
    if config.method != "sgd":
        raise ValueError(
            f"a cycle takes plain steps, method='sgd', got {config.method!r}; write "
            "TrainConfig(method='sgd', ...)"
        )
    if how.warmup_epochs >= config.epochs:
        raise ValueError(
            f"a warm-up of {how.warmup_epochs} epochs leaves nothing of a cycle of "
            f"{config.epochs}; write fewer warmup_epochs"
        )


@dataclass(frozen=True)
class Trained:
    """The network at the end of each cycle, and how the cycles went."""

    networks: list[nn.Module]  # in eval mode, on the device
    history: pd.DataFrame  # one row an epoch: cycle, epoch (of the cycle), lr, loss


def train_cycle(
    start: nn.Module,
    split: data.Split,
    config: TrainConfig,
    how: Recipe | None = None,
) -> tuple[nn.Module, list[Row]]:
    """A copy of the network, trained for one cycle with a new optimizer.

    The learning rate of each epoch is `recipe.learning_rate`; the optimizer's memory
    (momentum, Adam's moments) starts empty. BatchNorm's running statistics, and the
    scaling of images, come along with the start. Data order, augmentation and dropout
    are decided by `config.seed`.

    Args:
        start: any network from images in [0, 1] to logits; left as it is.
        split: the N training images.
        config: epochs, learning rate, optimizer and seed of the cycle.
        how: warm-up, smoothing, clipping and augmentation; None is none of these.

    Returns:
        The network in eval mode, and a row an epoch: epoch, lr, loss.

    Raises:
        ValueError: a method other than sgd; a warm-up as long as the cycle; no images,
            or ones that do not fit the network (`check_fits`); a device that is not
            there.
        FloatingPointError: weights are no longer finite.
    """
    how = how or Recipe()
    _check_settings(config, how)
    check_fits(start, split, how)
    device = device_of(config)
    config = dataclasses.replace(config, members=1)
    model = copy.deepcopy(start)
    model = model.to(device, memory_format=torch.channels_last).train()
    steps = optimizer(config, list(model.parameters()), device)
    batches, rows = Batches(split, config, device), []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(stream(config.seed, "dropout").initial_seed())
        for epoch in range(config.epochs):
            lr = recipe.learning_rate(config, how, epoch)
            for group in steps.param_groups:
                group["lr"] = lr
            change = _change(how, config.seed, epoch, len(split.classes))
            parts = (how.label_smoothing, how.clip_norm, change)
            loss = float(train_epoch(model, steps, batches, epoch, *parts))
            rows.append({"epoch": epoch, "lr": lr, "loss": loss})
            _check_finite(model, rows[-1])
    return model.eval(), rows


def _change(how: Recipe, seed: int, epoch: int, classes: int) -> Change | None:
    if how.augment is None:
        return None
    from sbtutor import augment  # torchvision takes a process over a second to import

    return augment.change(how, seed, epoch, classes)


def _check_finite(model: nn.Module, row: Row) -> None:
    if all(t.isfinite().all() for t in model.state_dict().values()):
        return
    raise FloatingPointError(
        f"weights are no longer finite after epoch {row['epoch']} of a cycle, learning "
        f"rate {row['lr']:g}, loss {row['loss']:g}; lower lr"
    )


def digest(start: nn.Module) -> str:
    """A hash of all weights, buffers and layers of a network, and of what is frozen."""
    found = hashlib.sha256(repr(start).encode())
    for name, tensor in (*start.named_parameters(), *start.named_buffers()):
        about = (name, tensor.dtype, tuple(tensor.shape), tensor.requires_grad)
        found.update(repr(about).encode())
        content = tensor.detach().cpu().reshape(-1)
        found.update(content.view(torch.uint8).numpy())  # NumPy has no bfloat16
    return found.hexdigest()


def _digest_of_images(split: data.Split) -> str:
    found = hashlib.sha256(repr((tuple(split.images.shape), split.classes)).encode())
    for tensor in (split.images, split.labels):
        found.update(tensor.cpu().contiguous().numpy())
    return found.hexdigest()


def _path(out: Path, images: str, start: str, config: TrainConfig, how: Recipe) -> Path:
    about = {name: getattr(config, name) for name in OBEYED}
    about |= {"images": images, "start": start, "recipe": dataclasses.asdict(how)}
    if how.augment is None:  # then these change nothing, a file's name neither
        del about["recipe"]["augment"], about["recipe"]["size"]
    text = json.dumps(about, sort_keys=True)
    return out / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.pt"


def _run(split: data.Split, out: Path | None, task: Task) -> list[dict[str, Any]]:
    """Each cycle's end and history, from its file if an earlier call has made it."""
    model = copy.deepcopy(task.start)
    ends, images = [], _digest_of_images(split) if out else ""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of floats depend on it, and results must not
    try:
        for c in range(task.cycles):
            config = dataclasses.replace(task.config, seed=task.config.seed + c)
            path = out and _path(out, images, digest(model), config, task.recipe)
            if path and path.exists():
                end = files.load_tensors(path, REMEDY)
                model = copy.deepcopy(model)  # an earlier end may hold its tensors
                model.load_state_dict(end["weights"])
            else:
                began = time.monotonic()
                model, rows = train_cycle(model, split, config, task.recipe)
                weights = {k: t.cpu() for k, t in model.state_dict().items()}
                end = {"weights": weights, "history": rows}
                end["seconds"] = time.monotonic() - began
                if path:
                    files.save_tensors(path, end)
            ends.append(end)
    finally:
        torch.set_num_threads(threads)
    return ends


def seconds(out: Path) -> float:
    """That the cycles took to train whose ends are kept in a folder."""
    ends = [files.load_tensors(path, REMEDY) for path in out.glob("*.pt")]
    return sum((end["seconds"] for end in ends), 0.0)


def train(
    tasks: Sequence[Task],
    split: data.Split,
    out: Path | str | None = None,
    jobs: int | None = None,
    label: str = "cycles",
) -> list[Trained]:
    """Put several networks through their cycles, side by side in processes.

    With a folder `out`, the end of each cycle is one file there, named by a hash of
    all that it depends on: start, images and settings. So a killed call, made again,
    goes on where it stopped, and a cycle that two tasks have in common can be loaded.
    The number of processes changes nothing, bit for bit on one machine's CPU.

    Args:
        tasks: what each network goes through.
        split: the training images, the same for all.
        out: where the ends of cycles are kept; None keeps none.
        jobs: processes at once; None takes all cores, but one process on a GPU.
        label: shows progress under this name.

    Returns:
        For each task, the network after each of its cycles.

    Raises:
        ValueError: as `train_cycle`; no tasks; jobs < 1; `out` is a file; a broken file
            (names it).
        FloatingPointError: a network has diverged.
        RuntimeError: a process died.
        OSError: the disk is full; what was saved stays.
    """
    if not tasks:
        raise ValueError("there is nothing to train: give at least one network")
    out = Path(out) if out else None
    if out and out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; cycles are kept in a folder")
    for task in tasks:
        check_fits(task.start, split, task.recipe)
    device = device_of(tasks[0].config)
    if jobs is None and device.type != "cpu":
        jobs = 1
    found = workers.run(functools.partial(_run, split, out), tasks, jobs, label)
    return [_trained(task, ends) for task, ends in zip(tasks, found)]


def _trained(task: Task, ends: list[dict[str, Any]]) -> Trained:
    networks, rows = [], []
    for c, end in enumerate(ends):
        network = copy.deepcopy(task.start)
        network.load_state_dict(end["weights"])
        networks.append(network.to(device_of(task.config)).eval())
        rows += [{"cycle": c, **row} for row in end["history"]]
    return Trained(networks, pd.DataFrame(rows))
