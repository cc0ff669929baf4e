"""Training on one GPU against the ordinary loop, and against the card's own peak.

    python benchmarks/gpu.py [--quick] [--minutes 10] [--json FILE]

Needs no data: images are random. ResNet-18 on images of 32x32 pixels, batches of 128,
three members, for SGD, SAM and SharpBalance. On a machine without a GPU it says so.

What is timed, in this order, each with what stands before it:

    ordinary         what research scripts do: members in turn, a DataLoader with worker
                     processes and PIL transforms (crop, flip), float32, SAM by in-place
                     steps; pinned memory, cuDNN's search for the fastest algorithm
    ours             all images on the GPU and augmented there, a fused optimizer,
                     nothing in a step that waits for the GPU; float32
    + channels_last  the package's default, whatever the device
    + bf16           TrainConfig(bf16=True)
    + compile        TrainConfig(compile=True); compilation itself is not timed
    + side by side   SBTUTOR_SIDE_BY_SIDE=on, a CUDA stream a member

How to read it. `samples/s` counts each image once a member: three members that see 128
images each are 384. `ratio` is to the ordinary loop of the same method in this run; it
depends on the processor as much as on the GPU: there the ordinary loop's images are
made. `TFLOP/s` are matrix products and convolutions only, a multiply-add being two
(`sbtutor.cost`); that rate is what `--tflops` of `python -m sbtutor.batch` asks for.
`of peak` divides it by the rate of one large matrix product on the same card, measured
first: bfloat16's for the ways with bf16, TF32's for the others, because PyTorch runs
convolutions of float32 that way. A way that is slower than the one before it is not
worth its switch on your card. Medians of `--repeats` epochs.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import ordinary
import peak
import torch
from torch import Tensor, nn

from sbtutor import cost, data, gpu, models, state, workers
from sbtutor.batches import Batches
from sbtutor.config import Experiment, ModelConfig, TrainConfig
from sbtutor.epochs import train_step

METHODS = ("sgd", "sam", "sharpbalance")
SWITCHES = ("channels_last", "bf16", "compile", "side by side")
RHO = 0.2
Steps = Callable[[], int]  # trains an epoch's steps; returns samples times members


class Case(NamedTuple):
    """What is trained, and for how long."""

    model: ModelConfig = ModelConfig(name="resnet18")
    side: int = 32
    batch_size: int = 128
    members: int = 3
    steps: int = 352  # as many as CIFAR-10's 45,000 images make
    matmul: int = 8192  # rows and columns


QUICK = Case(steps=40, matmul=4096)
# For tests on a CPU.
TINY = Case(ModelConfig(name="small_cnn", width=4), 8, 8, 2, 4, 128)


def images_of(case: Case) -> data.Split:
    """Random images, for batches of two sizes, as real training sets make them."""
    generator = torch.Generator().manual_seed(0)
    samples = case.steps * case.batch_size - case.steps // 4
    shape = (samples, 3, case.side, case.side)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (samples,), generator=generator)
    return data.Split(pixels, labels, tuple("0123456789"))


def config_of(case: Case, method: str, device: torch.device) -> TrainConfig:
    return TrainConfig(
        method=method,
        members=case.members,
        batch_size=case.batch_size,
        lr=0.01,
        crop=4,
        flip=True,
        rho=RHO,
        device=str(device),
    )


def masks_of(config: TrainConfig, samples: int) -> Tensor:
    """Which member trains which sample with SAM: for SharpBalance at random."""
    share = {"sgd": 0.0, "sam": 1.0}.get(config.method, cost.sam_share(config))
    generator = torch.Generator().manual_seed(1)
    return torch.rand(config.members, samples, generator=generator) < share


def networks(case: Case, device: torch.device) -> list[nn.Module]:
    shape = (3, case.side, case.side)
    members = [models.build(case.model, shape, 10, m) for m in range(case.members)]
    return [member.to(device).train() for member in members]


def our_steps(
    case: Case, split: data.Split, config: TrainConfig, switches: tuple[str, ...]
) -> Steps:
    """The package's step with these switches on."""
    on = {name: name in switches for name in ("bf16", "compile")}
    config = dataclasses.replace(config, **on)
    about = {"in_shape": split.images.shape[1:], "classes": 10}
    layout = contextlib.nullcontext()
    if "channels_last" not in switches:
        layout = mock.patch.object(state, "_stacked", torch.stack)
    with layout:
        ensemble = state.fresh(Experiment(model=case.model, train=config), about)
    masks = masks_of(config, len(split.labels))
    batches = Batches(split, config, torch.device(config.device))
    epochs = itertools.count()

    def run() -> int:
        wanted = "on" if "side by side" in switches else "off"
        with mock.patch.dict(os.environ, {gpu.SIDE_BY_SIDE: wanted}):
            for step, batch in enumerate(batches.epoch(next(epochs))):
                if "channels_last" not in switches:
                    batch = dataclasses.replace(batch, images=batch.images.contiguous())
                train_step(ensemble, batch, masks, config, step)
        return case.members * len(split.labels)

    return run


def samples_a_second(steps: Steps, device: torch.device, repeats: int) -> float:
    """Median over epochs, after one that compiles and warms up."""
    steps()
    found = [peak.seconds(steps, device) for _ in range(repeats)]
    return statistics.median(samples / took for took, samples in found)


def ways() -> dict[str, tuple[str, ...]]:
    """Each way's name and its switches; the ordinary loop knows none."""
    added = {f"+ {name}": SWITCHES[: i + 1] for i, name in enumerate(SWITCHES)}
    return {"ordinary": (), "ours": ()} | added


def measure(
    case: Case, method: str, way: str, device: torch.device, repeats: int, jobs: int
) -> dict[str, Any]:
    """One row: samples a second and TFLOP/s of a method trained in one way."""
    split, switches = images_of(case), ways()[way]
    config = config_of(case, method, device)
    if way == "ordinary":
        masks = masks_of(config, len(split.labels))
        members = networks(case, device)
        steps = ordinary.loop(members, split, masks, config, case.steps, jobs)
    else:
        steps = our_steps(case, split, config, switches)
    with gpu.settings(device, one_size=method != "sharpbalance"):
        rate = samples_a_second(steps, device, repeats)
    gradients = {"sgd": 1.0, "sam": 2.0}.get(method, 1 + cost.sam_share(config))
    flops = cost.model_flops(case.model, (3, case.side, case.side), 10)
    return {
        "method": method,
        "way": way,
        "samples_per_second": rate,
        "tflops": cost.GRADIENT * gradients * flops * rate / 1e12,
        "peak": "bf16" if "bf16" in switches else "tf32",
    }


def report(row: dict[str, Any], first: dict[str, Any], peaks: dict[str, float]) -> str:
    """Add the row's ratio to its method's first one and its share of the peak."""
    row["ratio"] = row["samples_per_second"] / first["samples_per_second"]
    row["share_of_peak"] = row["tflops"] / peaks[row["peak"]]
    return (
        f"{row['method']:13} {row['way']:16} {row['samples_per_second']:9,.0f} "
        f"samples/s  ratio {row['ratio']:6.2f}  {row['tflops']:8.3g} TFLOP/s  "
        f"{row['share_of_peak']:6.1%} of peak ({row['peak']})"
    )


def compare(
    case: Case, device: torch.device, peaks: dict[str, float], given: argparse.Namespace
) -> list[dict[str, Any]]:
    """All ways of all methods, until the time is up; prints a line each."""
    end, rows = time.monotonic() + 60 * given.minutes, []
    for method in given.methods:
        first = None
        for way, switches in ways().items():
            trouble = None
            if given.quick and method == "sharpbalance" and "compile" in switches:
                trouble = "left out by --quick: six variants to compile"
            elif time.monotonic() > end:
                trouble = f"not measured: {given.minutes:g} minutes are over"
            if trouble:
                print(f"{method:13} {way:16} {trouble}")
                continue
            row = measure(case, method, way, device, given.repeats, given.workers)
            first = first or row
            print(report(row, first, peaks), flush=True)
            rows.append(row)
    return rows


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="within 5 minutes")
    parser.add_argument("--minutes", type=float, default=20, help="start no more after")
    parser.add_argument("--repeats", type=int, default=3, help="epochs a measurement")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--workers", type=int, default=min(8, workers.cores()))
    parser.add_argument("--json", type=Path, help="write all numbers there, too")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    found = parser.parse_args(given)
    found.minutes = min(found.minutes, 4) if found.quick else found.minutes
    return found


def main(words: list[str] | None = None) -> int:
    """Measure the card, then all ways; 0 on a machine without a GPU, too."""
    given = arguments(words)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no GPU that PyTorch can use on this machine: nothing to measure")
        return 0
    is_gpu = device.type == "cuda"
    case = (QUICK if given.quick else Case()) if is_gpu else TINY
    name = torch.cuda.get_device_name(device) if is_gpu else "CPU"
    peaks = peak.peaks(case.matmul, device)
    print(f"{name}, torch {torch.__version__}, {workers.cores()} cores")
    print("peak " + ", ".join(f"{k} {v:.3g} TFLOP/s" for k, v in peaks.items()))
    rows = compare(case, device, peaks, given)
    if given.json:
        about = {"device": name, "torch": torch.__version__, "cores": workers.cores()}
        about |= {"case": case.model.name, "peaks": peaks, "rows": rows}
        given.json.write_text(json.dumps(about, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
