"""Train a batch or a hyper-batch ensemble; a killed training goes on."""

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sbtutor import batch_ensemble, data, files, pool, trial, tuning
from sbtutor.batch_ensemble import BatchEnsemble
from sbtutor.batches import Batch, Batches, stream
from sbtutor.config import Experiment
from sbtutor.epochs import learning_rate
from sbtutor.progress import Progress
from sbtutor.space import Settings
from sbtutor.state import device_of
from sbtutor.trial import Trial
from sbtutor.tuning import Tuning

FACTOR_LR = 0.5  # of r, s, u and v, times the others', as in the published code


@dataclass(frozen=True)
class Fitted:
    """A trained batch ensemble."""

    ensemble: BatchEnsemble  # in eval mode
    history: pd.DataFrame  # a row an epoch: epoch, lr, loss and, if tuned, tuning_loss
    ranges: Float[Tensor, "T 2 M H"] | None  # log a, log b: at first, after each epoch
    seconds: float

    @property
    def members(self) -> list[nn.Module]:
        """As ordinary networks; hyper-batch members at their mean hyperparameters."""
        return batch_ensemble.members_of(self.ensemble)


@dataclass
class _State:
    """What training changes."""

    ensemble: BatchEnsemble
    weights: torch.optim.Optimizer
    bounds: torch.optim.Optimizer | None  # of a hyper-batch ensemble
    history: list[dict[str, int | float]]  # a row an epoch
    ranges: list[Tensor]
    steps: int = 0  # of training
    seconds: float = 0.0


def fit(
    experiment: Experiment, how: Settings | Tuning, out: Path | str, resume: bool = True
) -> Fitted:
    """Train an ensemble of `experiment.train.members`, kept in one file in `out`.

    Its networks have dropout layers if `experiment.model.dropout` is not 0; the rate
    itself is a hyperparameter like the others. (Fort et al.'s networks have some of
    their own, of a fixed rate; a hyper-batch ensemble tunes that, too.) All members see
    the same batches of `batch_size` images. The experiment's weight_decay is not used:
    L2 is part of the loss. All is done in float32, uncompiled; the last bits depend on
    the number of threads. Nothing but the ranges sees the validation images; of these
    each tuning step draws `batch_size` at random (the published code goes through them
    in epochs).

    Args:
        experiment: data, model and training.
        how: fixed hyperparameters, one each of `trial.names`, for a batch ensemble; a
            `Tuning` for a hyper-batch ensemble.
        out: a folder. The file is named by a hash of all that the result depends on; it
            is written after each epoch, and a finished one is loaded.
        resume: False trains again from the beginning.

    Raises:
        ValueError: a method other than sgd; hyperparameters that are not the network's;
            a broken file.
        FloatingPointError: the loss is no longer finite.
    """
    config = experiment.train
    if config.method != "sgd" or config.optimizer != "sgd":
        raise ValueError(
            "batch ensembles are trained by plain SGD, got "
            f"method={config.method!r}, optimizer={config.optimizer!r}; write 'sgd'"
        )
    if not isinstance(how, Tuning):
        how = Trial(settings=how, init=config.seed, order=config.seed).settings
    splits = data.load(experiment.data)
    images = pool.digest(splits)
    state = _fresh(experiment, how, splits.train)
    path = _path(Path(out), experiment, how, images)
    if resume and path.exists():
        _restore(state, path)
    fixed = None
    if not state.ensemble.hyper:
        fixed = _logs(how, state.ensemble.names).to(device_of(config))
    batches = Batches(
        splits.train, dataclasses.replace(config, members=1), device_of(config)
    )
    progress = Progress(path.stem, config.epochs, len(state.history))
    try:
        while len(state.history) < config.epochs:
            start = time.monotonic()
            row = _epoch(state, batches, splits.val, experiment, how, fixed)
            state.history.append(row)
            _note_ranges(state)
            state.seconds += time.monotonic() - start
            _save(state, path)
            progress.step(f"loss {row['loss']:.3f}")
    finally:
        progress.close()
    ranges = torch.stack(state.ranges) if state.ranges else None
    history = pd.DataFrame(state.history)
    return Fitted(state.ensemble.eval(), history, ranges, state.seconds)


def _path(
    out: Path, experiment: Experiment, how: Settings | Tuning, images: str
) -> Path:
    is_tuned, config = isinstance(how, Tuning), experiment.train
    obeyed = (*trial.OBEYED, "members", "seed")
    about = {
        "how": dataclasses.asdict(how) if is_tuned else how,
        "images": images,
        "model": dataclasses.asdict(experiment.model),
        "train": {name: getattr(config, name) for name in obeyed},
    }
    text = json.dumps(about, sort_keys=True)
    kind = "hyper-batch" if is_tuned else "batch"
    return out / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.pt"


def _fresh(experiment: Experiment, how: Settings | Tuning, train: data.Split) -> _State:
    config, is_tuned = experiment.train, isinstance(how, Tuning)
    start = Trial(settings={} if is_tuned else how, init=config.seed, order=config.seed)
    if not is_tuned:
        trial.check(experiment, train, [start])
    model = trial.first_weights(experiment, train, start)
    options = dict(space=how.space, tied=how.tied) if is_tuned else {}
    ensemble = batch_ensemble.convert(
        model, config.members, is_tuned, seed=config.seed, **options
    ).to(device_of(config))
    shared, factors = [], []
    for name, param in ensemble.network.named_parameters():
        (factors if name.endswith((".r", ".s")) else shared).append(param)
    groups = [{"params": shared, "scale": 1.0}, {"params": factors, "scale": FACTOR_LR}]
    weights = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    bounds = None
    if is_tuned:
        _narrow(ensemble, how.start)
        bounds = torch.optim.Adam([ensemble.low, ensemble.high], lr=how.lr)
    state = _State(ensemble, weights, bounds, [], [])
    _note_ranges(state)
    return state


@torch.no_grad()
def _narrow(ensemble: BatchEnsemble, share: float) -> None:
    """Let the ranges cover the middle share of what is permitted, on a log scale."""
    aside = (1 - share) / 2 * (ensemble.high - ensemble.low)
    ensemble.low.add_(aside)
    ensemble.high.sub_(aside)


def _logs(settings: Settings, names: tuple[str, ...]) -> Tensor:
    """A value that the settings lack belongs to layers whose dropout is their own."""
    values = [settings.get(name, 0.0) for name in names]
    return torch.tensor(values, dtype=torch.float32).log()


def _note_ranges(state: _State) -> None:
    if state.ensemble.hyper:
        bounds = torch.stack([state.ensemble.low, state.ensemble.high])
        state.ranges.append(bounds.detach().cpu().clone())


def _epoch(
    state: _State,
    batches: Batches,
    val: data.Split,
    experiment: Experiment,
    how: Settings | Tuning,
    fixed: Tensor | None,
) -> dict[str, int | float]:
    """One pass over the training images; `fixed` are a batch ensemble's log lambda."""
    config, epoch = experiment.train, len(state.history)
    lr, device = learning_rate(config, epoch), batches.device
    for group in state.weights.param_groups:
        group["lr"] = lr * group["scale"]
    draws = stream(config.seed, epoch, "hyperparameters")
    losses, tuned, samples = [], [], len(batches.labels)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(stream(config.seed, epoch, "dropout").initial_seed())
        for batch in batches.epoch(epoch):
            losses.append(_training_step(state, batch, draws, fixed, samples))
            state.steps += 1
            if fixed is None and state.steps % how.every == 0:
                few = torch.randint(
                    len(val.labels), (config.batch_size,), generator=draws
                )
                few = data.Split(val.images[few], val.labels[few], val.classes)
                tuned.append(_tuning_step(state, few, draws, how.tau))
    row = {"epoch": epoch, "lr": lr, "loss": float(torch.stack(losses).mean())}
    if tuned:
        row["tuning_loss"] = float(torch.stack(tuned).mean())
    values = [*losses, *tuned, *state.ensemble.parameters()]
    if not all(value.isfinite().all() for value in values):
        raise FloatingPointError(
            f"loss or weights are no longer finite in epoch {epoch}, learning rate "
            f"{lr:g}; lower lr; the file of the last good epoch is kept"
        )
    return row


def _uniform(ensemble: BatchEnsemble, images: int, draws: torch.Generator) -> Tensor:
    shape = (ensemble.members, images, len(ensemble.names))
    return torch.rand(shape, generator=draws).to(ensemble.low.device)


def _training_step(
    state: _State,
    batch: Batch,
    draws: torch.Generator,
    fixed: Tensor | None,
    samples: int,
) -> Tensor:
    images, labels = batch.images[0], batch.labels[0]
    ensemble = state.ensemble.train()
    with torch.no_grad():
        if fixed is None:
            log_lambda = ensemble.sample(_uniform(ensemble, len(labels), draws))
        else:
            log_lambda = fixed.expand(ensemble.members * len(labels), -1)
    loss = tuning.training_loss(ensemble, images, labels, log_lambda, samples)
    state.weights.zero_grad()
    loss.backward()
    state.weights.step()
    return loss.detach()


def _tuning_step(
    state: _State, val: data.Split, draws: torch.Generator, tau: float
) -> Tensor:
    ensemble = state.ensemble.eval()
    device = ensemble.low.device
    images, labels = data.to_float(val.images.to(device)), val.labels.to(device)
    u = _uniform(ensemble, len(labels), draws)
    loss = tuning.tuning_loss(ensemble, images, labels, u, tau)
    if not loss.isfinite():  # would spoil the bounds; `_epoch` tells of it
        return loss.detach()
    bounds = (ensemble.low, ensemble.high)
    for bound, slope in zip(bounds, torch.autograd.grad(loss, bounds), strict=True):
        bound.grad = slope
    state.bounds.step()
    ensemble.project()
    return loss.detach()


def _optimizers(state: _State) -> list[torch.optim.Optimizer]:
    return [each for each in (state.weights, state.bounds) if each is not None]


def _save(state: _State, path: Path) -> None:
    saved = {
        "ensemble": state.ensemble.state_dict(),
        "optimizers": [each.state_dict() for each in _optimizers(state)],
        "history": state.history,
        "ranges": state.ranges,
        "steps": state.steps,
        "seconds": state.seconds,
    }
    files.save_tensors(path, saved)


def _restore(state: _State, path: Path) -> None:
    remedy = "delete it and run again: training starts from the beginning"
    saved = files.load_tensors(path, remedy)
    state.ensemble.load_state_dict(saved["ensemble"])
    for own, old in zip(_optimizers(state), saved["optimizers"], strict=True):
        own.load_state_dict(old)
    state.history, state.ranges = saved["history"], saved["ranges"]
    state.steps, state.seconds = saved["steps"], saved["seconds"]
