"""Train an ensemble into a run folder; resume it; load it."""

import contextlib
import dataclasses
import hashlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sbtutor import (
    data,
    evaluate,
    files,
    results,
    sharpbalance,
    sharpness,
    snapshots,
)
from sbtutor.batches import Batches, stream
from sbtutor.config import Experiment, TrainConfig
from sbtutor.epochs import learning_rate, train_epoch
from sbtutor.gradient import balanced_gradient
from sbtutor.predict import predict
from sbtutor.progress import Progress
from sbtutor.state import State, device_of, fresh

__all__ = ["Run", "balanced_gradient", "fit", "learning_rate", "load_run"]


@dataclass(frozen=True)
class Run:
    """A trained ensemble and how it came about."""

    out: Path
    experiment: Experiment
    members: list[nn.Module]
    history: pd.DataFrame  # one row an epoch and member: epoch, member, lr, loss
    sam_masks: Bool[Tensor, "M N"] | None  # SharpBalance only
    scores: Float[Tensor, "M N"] | None  # the Fisher traces, if they were taken
    metrics: dict[str, float]


def _eagerly(config: TrainConfig) -> contextlib.AbstractContextManager:
    """Without the compiler: its members know neither vmap nor second derivatives."""
    if not config.compile:  # to say so takes a second of imports
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")


def _score(state: State, split: data.Split, device: torch.device) -> Tensor:
    """Every member's Fisher trace of every training image, without augmentation."""
    parts = []
    for images, labels in zip(split.images.split(1024), split.labels.split(1024)):
        x, y = data.to_float(images.to(device)), labels.to(device)
        rows = [sharpness.fisher_trace(m, x, y) for m in state.members]
        parts.append(torch.stack(rows).cpu())
    return torch.cat(parts, dim=1)


def _trunk_path(trunks: Path | str, experiment: Experiment) -> Path:
    """Where runs that share their first T_d epochs of SAM keep the state after them.

    Named by a hash of all settings but those that matter only afterwards.
    """
    train = dataclasses.replace(
        experiment.train, method="sam", split="paper", sam_fraction=0.5
    )
    name = results.run_folder("", dataclasses.replace(experiment, train=train)).name
    return Path(trunks) / f"{name}.pt"


def _train(
    state: State,
    experiment: Experiment,
    train: data.Split,
    out: Path,
    trunk: Path | None,
) -> None:
    config = experiment.train
    device = device_of(config)
    batches = Batches(train, config, device)
    label = f"{out.name} ({config.method}, seed {config.seed})"
    progress = Progress(label, config.epochs, state.epoch)
    try:
        while state.epoch < config.epochs:
            start = time.monotonic()
            if state.epoch == config.warmup_epochs:
                branch(state, config, train, device, trunk)
            train_epoch(state, batches, config)
            state.seconds += time.monotonic() - start
            if config.snapshots:
                snapshots.save(out, state.epoch - 1, state.params, state.buffers)
            _write_history(out, state)
            state.save(out / "checkpoint.pt")
            last = state.history[-config.members :]
            loss = sum(row["loss"] for row in last) / config.members
            progress.step(f"loss {loss:.3f}, lr {last[0]['lr']:g}")
    finally:
        progress.close()


def branch(
    state: State,
    config: TrainConfig,
    train: data.Split,
    device: torch.device,
    trunk: Path | None = None,
) -> None:
    """After T_d epochs of SAM: keep the trunk, make SharpBalance's split."""
    keep = trunk is not None and not trunk.exists()
    if state.scores is None and (keep or config.method == "sharpbalance"):
        with _eagerly(config):
            state.scores = _score(state, train, device)
    if keep:
        state.save(trunk)
    if config.method == "sharpbalance":
        state.sam_masks = sharpbalance.sam_masks(
            state.scores,
            config.sam_fraction,
            config.split,
            stream(config.seed, "split"),
        )


def _write_history(out: Path, state: State) -> None:
    text = pd.DataFrame(state.history).to_csv(index=False)
    files.write_bytes(out / "history.csv", text.encode())


def fit(
    experiment: Experiment,
    out: Path | str,
    resume: bool = True,
    trunks: Path | str | None = None,
) -> Run:
    """Train an ensemble into a run folder, or finish the one that lies there.

    The folder holds `config.json`, `checkpoint.pt` and `history.csv` (after each
    epoch), with `TrainConfig(snapshots=True)` the weights after every epoch, `val.npz`
    and `test.npz` (logits and labels), `provenance.json`, and, last of all,
    `metrics.json`. A killed run goes on from its checkpoint and ends with the numbers
    of an unbroken one, bit for bit on one machine's CPU. A finished run is loaded.
    Weights come from the last epoch; validation images are only measured on.

    Args:
        experiment: data, model and training.
        out: the run folder; made if need be.
        resume: False trains all epochs again and replaces what lies in `out`; nothing
            is removed before the data are loaded.
        trunks: a folder. SAM and SharpBalance runs that agree in all but method,
            split and sam_fraction share their first T_d epochs, which are then
            trained once and kept there; runs with snapshots have all epochs their own.

    Returns:
        The run; its members are in eval mode.

    Raises:
        ValueError: `out` holds another experiment, or one on other images; the data
            cannot be found; a broken checkpoint.
        FloatingPointError: the loss is no longer finite.
        OSError: the disk is full; what was saved stays.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; a run needs a folder of its own")
    if resume:
        results.check_same_experiment(out, experiment)
        if results.is_complete(out):
            return load_run(out)
    splits = data.load(experiment.data)
    state = fresh(experiment, _about(splits.train))
    statistics = data.channel_statistics(splits.train.images)
    for member in state.members:
        member.normalize.set(*statistics)
    _clear(out, everything=not resume)
    files.write_json(out / "config.json", experiment.to_dict())
    trunk = None
    own = experiment.train.method == "sgd" or experiment.train.snapshots
    if trunks is not None and not own:
        trunk = _trunk_path(trunks, experiment)
    if (out / "checkpoint.pt").exists():
        state.restore(out / "checkpoint.pt")
    elif resume and trunk is not None and trunk.exists():
        state.restore(trunk)
    _train(state, experiment, splits.train, out, trunk)
    with _eagerly(experiment.train):
        _finish(state, experiment, splits, out)
    return load_run(out)


def _about(train: data.Split) -> dict[str, Any]:
    """What a checkpoint must know of the images it was trained on."""
    digest = hashlib.sha256(train.images.numpy()).hexdigest()
    return {
        "in_shape": list(train.images.shape[1:]),
        "classes": len(train.classes),
        "images": digest,
    }


def _clear(out: Path, everything: bool) -> None:
    """Remove what a killed run left half-written, or the whole run.

    All other `.json` files in a run's folder are measurements of the weights that go.
    """
    for leftover in out.rglob(".*"):
        if leftover.is_file():
            leftover.unlink()
    if not everything:
        return
    config = out / "config.json"
    names = ("checkpoint.pt", "history.csv", "val.npz", "test.npz", "provenance.json")
    measured = list(out.glob("*.json")) if config.exists() else []  # else: no run's
    (out / results.METRICS).unlink(missing_ok=True)  # first: it is finished no more
    shutil.rmtree(out / snapshots.FOLDER, ignore_errors=True)
    for path in (*(out / name for name in names), *measured):
        if path != config:
            path.unlink(missing_ok=True)
    config.unlink(missing_ok=True)  # last: by it a killed removal is gone on with


def _finish(
    state: State, experiment: Experiment, splits: data.Splits, out: Path
) -> None:
    """Predict and measure; `metrics.json` comes last and makes the run complete."""
    start = time.monotonic()
    members = [member.eval() for member in state.members]
    row = evaluate.sharpness_row(members, splits.train)
    for name in ("val", "test"):
        predictions = predict(members, getattr(splits, name))
        predictions.save(out / f"{name}.npz")
        measured = evaluate.predictions_row(predictions)
        row |= {f"{name}_{key}": value for key, value in measured.items()}
    shifted = evaluate.shift_row(members, splits.test)
    row |= {f"shift_{key}": value for key, value in shifted.items()}
    seconds = state.seconds + time.monotonic() - start
    device = str(device_of(experiment.train))
    files.write_json(out / "provenance.json", results.provenance(device, seconds))
    files.write_json(out / results.METRICS, row)


def load_run(out: Path | str) -> Run:
    """A finished run from its folder, on the GPU if there is one.

    Raises:
        ValueError: the folder holds no finished run.
    """
    out = Path(out)
    if not results.is_complete(out):
        raise ValueError(
            f"{out} holds no finished run (no {results.METRICS}); train it with "
            "train.fit(experiment, out)"
        )
    if not (out / "checkpoint.pt").exists():
        raise ValueError(
            f"{out} has lost its checkpoint.pt, and with it the weights; delete the "
            "folder and train again with train.fit(experiment, out)"
        )
    experiment = results.load_experiment(out)
    here = dataclasses.replace(experiment.train, device="auto", compile=False)
    remedy = "delete the folder and train again with train.fit(experiment, out)"
    about = files.load_tensors(out / "checkpoint.pt", remedy)["about"]
    state = fresh(dataclasses.replace(experiment, train=here), about)
    state.restore(out / "checkpoint.pt")
    return Run(
        out=out,
        experiment=experiment,
        members=[member.eval() for member in state.members],
        history=pd.DataFrame(state.history),
        sam_masks=state.sam_masks,
        scores=state.scores,
        metrics=results.load_metrics(out),
    )
