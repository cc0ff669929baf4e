"""One network, trained with hyperparameters of its own."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sbtutor import data, models, space, state
from sbtutor.batches import Batches, stream
from sbtutor.config import Experiment, ModelConfig, TrainConfig
from sbtutor.descent import train_epoch
from sbtutor.epochs import learning_rate
from sbtutor.space import Settings

# The fields of TrainConfig that a trial obeys. The others belong to other methods,
# change only where and how fast it is trained, or give way to the trial's own.
OBEYED = (
    *("epochs", "batch_size", "optimizer", "lr", "momentum", "schedule", "milestones"),
    *("lr_decay", "crop", "flip", "bf16"),
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one network is trained with, besides the experiment."""

    settings: Settings  # by name, as `names` lists them
    init: int  # seed of the first weights
    order: int  # seed of the data's order, of augmentation and of dropout

    def __post_init__(self) -> None:
        """Python's own numbers, within what such hyperparameters can be."""
        settings = {name: float(value) for name, value in self.settings.items()}
        object.__setattr__(self, "settings", settings)
        for name in ("init", "order"):
            object.__setattr__(self, name, int(getattr(self, name)))
        for name, value in settings.items():
            most = math.inf if name.startswith("l2_") else 1
            if not 0 <= value < most:
                raise ValueError(f"{name} must be in [0, {most:g}), got {value:g}")


def names(experiment: Experiment, train_split: data.Split) -> tuple[str, ...]:
    """The experiment's hyperparameters, as `space.names` lists them.

    Dropout is one of them if `ModelConfig(dropout=...)` is not 0; its value there has
    no other meaning. The dropout layers of Fort et al.'s networks keep their rate.
    """
    with torch.device("meta"):  # shapes without numbers
        model = _build(experiment.model, train_split, seed=0)
    has_rate = experiment.model.dropout > 0
    return tuple(n for n in space.names(model) if has_rate or n != "dropout")


def check_train(config: TrainConfig) -> None:
    """Refuse settings by which `train_one` cannot train; errors as in `check`."""
    if config.method != "sgd":
        raise ValueError(
            "networks with hyperparameters of their own are trained with "
            f"method='sgd', got {config.method!r}; write "
            "TrainConfig(method='sgd', ...)"
        )
    if config.optimizer == "adamw":
        raise ValueError(
            "AdamW's weight decay is no L2 penalty, so a trial has nothing to set "
            "there; write optimizer='adam' or 'sgd'"
        )


def check(
    experiment: Experiment, train_split: data.Split, trials: Sequence[Trial]
) -> None:
    """Refuse what `train_one` cannot train.

    Raises:
        ValueError: a method other than "sgd", the optimizer AdamW; settings missing or
            unknown.
    """
    check_train(experiment.train)
    wanted = names(experiment, train_split)
    for trial in trials:
        if set(trial.settings) != set(wanted):
            raise ValueError(
                f"a trial of this experiment sets {', '.join(wanted)}; got "
                f"{', '.join(trial.settings) or 'nothing'} (dropout is one of them if "
                "and only if ModelConfig(dropout=...) is not 0)"
            )


def model_config(experiment: Experiment, trial: Trial) -> ModelConfig:
    """The experiment's architecture with the trial's dropout rate."""
    rate = trial.settings.get("dropout", experiment.model.dropout)
    return dataclasses.replace(experiment.model, dropout=rate)


def _build(config: ModelConfig, split: data.Split, seed: int) -> nn.Module:
    return models.build(config, split.images.shape[1:], len(split.classes), seed)


def first_weights(
    experiment: Experiment, train_split: data.Split, trial: Trial
) -> nn.Module:
    """The network before its first step, on the CPU."""
    model = _build(model_config(experiment, trial), train_split, trial.init)
    model.normalize.set(*data.channel_statistics(train_split.images))
    return model


def optimizer(
    config: TrainConfig, model: nn.Module, settings: Settings, samples: int
) -> torch.optim.Optimizer:
    """Steps of the loss and of each group's L2 penalty, lambda / N ||w||^2.

    The penalty's gradient is 2 lambda / N w: a weight decay of 2 lambda / N. Norm
    layers have none.

    Args:
        config: learning rate, momentum and kind of optimizer.
        model: its parameters are grouped as in `space.groups`.
        settings: lambda of each group, as l2_GROUP.
        samples: N, the number of training images.
    """
    parts, rest = [], dict(model.named_parameters())
    for group, members in space.groups(model).items():
        params = [rest.pop(name) for name in members]
        decay = 2 * settings[f"l2_{group}"] / samples
        parts.append({"params": params, "weight_decay": decay})
    if rest:
        parts.append({"params": list(rest.values()), "weight_decay": 0.0})
    device = parts[0]["params"][0].device
    return state.optimizer(config, parts, device)


def train_one(
    experiment: Experiment, train_split: data.Split, trial: Trial
) -> nn.Module:
    """A network, trained with a trial's hyperparameters.

        loss = 1/N sum_n CE_s(f(x_n), y_n) + sum_g lambda_g / N ||w_g||^2

    CE_s is the cross-entropy with label smoothing s: the label's share is 1 - s + s/C,
    that of every other class s/C. lambda_g is the L2 strength of a group of layers
    (`space.groups`); its scale, 1/N, is that of the published code of Wenzel et al.
    2020. Training ends early once the weights are no longer finite.

    The result depends on experiment and trial only (and, in the last bits, on the
    number of threads). Not used are the experiment's weight_decay, seed, members,
    snapshots and compile.

    Args:
        experiment: its method must be "sgd".
        train_split: the N training images.
        trial: a value for each of the experiment's `names`.

    Returns:
        The network in eval mode, on the experiment's device.

    Raises:
        ValueError: another method; settings missing or unknown.
    """
    check(experiment, train_split, [trial])
    device = state.device_of(experiment.train)
    config = dataclasses.replace(experiment.train, members=1, seed=trial.order)
    model = first_weights(experiment, train_split, trial)
    model = model.to(device, memory_format=torch.channels_last).train()
    step = optimizer(config, model, trial.settings, len(train_split.labels))
    batches = Batches(train_split, config, device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(stream(trial.order, "dropout").initial_seed())
        for epoch in range(config.epochs):
            for group in step.param_groups:
                group["lr"] = learning_rate(config, epoch)
            smoothing = trial.settings["label_smoothing"]
            train_epoch(model, step, batches, epoch, smoothing)
            if not all(p.isfinite().all() for p in model.parameters()):
                break
    return model.eval()
