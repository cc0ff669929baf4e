"""What an experiment costs in arithmetic, before it is run.

A multiply-add is 2 FLOP. Counted are matrix products and convolutions, which are nearly
all of it: no norm layers, no augmentation, no optimizer.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sbtutor import data, models
from sbtutor.config import DataConfig, ModelConfig, TrainConfig

GRADIENT = 3  # passes forward: the backward pass does two products for each of one

# Sustained TFLOP/s of training, for estimates where nobody gives a measured rate.
# GPU: an assumption, meant to be on the safe side; no GPU was measured. It is 6 % of
# what an A100's data sheet states for bfloat16 (312): images of 32x32 pixels and
# batches of 128 do not fill such a card. `benchmarks/gpu.py` measures yours.
GPU_TFLOPS = 20.0
# One CPU core: an assumption, of the order that the small networks of the mini sweeps
# reach on one thread. Check: --dry-run of the sweep fig7-cifar10-mini says 14 minutes,
# its runs took 19 (notebooks/results/fig7-cifar10-mini.json).
CPU_TFLOPS = 0.04


class Sizes(NamedTuple):
    """How many images the splits have, and what one is."""

    train: int
    val: int
    test: int
    in_shape: tuple[int, int, int]  # C, H, W
    classes: int


# With the validation split that `data.load` cuts from the training images.
KNOWN = {
    "digits": Sizes(1097, 200, 500, (1, 8, 8), 10),
    "fashion-mini": Sizes(5_000, 1_000, 4_000, (1, 28, 28), 10),
    "fashion-mnist": Sizes(54_000, 6_000, 10_000, (1, 28, 28), 10),
    "cifar10": Sizes(45_000, 5_000, 10_000, (3, 32, 32), 10),
    "cifar100": Sizes(45_000, 5_000, 10_000, (3, 32, 32), 100),
    "tiny-imagenet": Sizes(90_000, 10_000, 10_000, (3, 64, 64), 200),
}


def sizes_of(config: DataConfig) -> Sizes:
    """The sizes of a data set; only a set of your own is loaded for it.

    Raises:
        ValueError: fewer training images than `limit`; as `data.load` for other sets.
    """
    sizes = KNOWN.get(config.name)
    if sizes is None:
        sizes = _loaded(dataclasses.replace(config, limit=None, size=None, seed=0))
    if config.limit is not None:
        if config.limit > sizes.train:
            raise ValueError(
                f"cannot take {config.limit} of {config.name}'s {sizes.train} training "
                f"images; write a limit from 1 to {sizes.train}"
            )
        sizes = sizes._replace(train=config.limit)
    if config.size is not None:
        shape = (sizes.in_shape[0], config.size, config.size)
        sizes = sizes._replace(in_shape=shape)
    return sizes


@functools.cache
def _loaded(config: DataConfig) -> Sizes:
    splits = data.load(config)
    counts = [len(split.labels) for split in splits]
    shape = tuple(splits.train.images.shape[1:])
    return Sizes(*counts, shape, len(splits.train.classes))


class _Counter(TorchFunctionMode):
    """Counts while it is entered. PyTorch's own counter imports the compiler first."""

    flops = 0

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.conv2d, F.linear):  # a row of weights makes each output
            self.flops += 2 * result.numel() * args[1][0].numel()
        elif func in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__):
            self.flops += 2 * result.numel() * args[0].shape[-1]
        return result


def forward_flops(model: nn.Module, in_shape: tuple[int, int, int]) -> int:
    """FLOP of one image's pass forward, counted while it is made.

    Args:
        model: on any device; on "meta" its tensors need no memory. It stays as it is.
        in_shape: (C, H, W) of the image.
    """
    image = torch.zeros(1, *in_shape, device=next(model.parameters()).device)
    with models.evaluating(model), torch.no_grad(), _Counter() as counter:
        model(image)
    return counter.flops


@functools.cache
def model_flops(
    config: ModelConfig, in_shape: tuple[int, int, int], classes: int
) -> int:
    """`forward_flops` of `models.build`'s network.

    Raises:
        ValueError: as `models.build`.
    """
    # Not on the meta device: to draw weights there imports the compiler, a second.
    return forward_flops(models.build(config, in_shape, classes, seed=0), in_shape)


def sam_share(config: TrainConfig) -> float:
    """Expected share of samples with SAM after SharpBalance's split.

    For a nomination of k N samples by each of M members, if their rankings of the
    samples were independent:

        paper, flattest, random, shared  s = 1 - (1 - k)^(M-1)
        code                             s + (1 - k)^M / M
        code_boost                       s + (1 - k)^M (M - 1) / M

    True rankings resemble each other, so s lies between k (all the same) and this,
    unless members disagree on purpose; min(1, (M - 1) k) is never exceeded. The code's
    rules are then nearer to 1 / M or (M - 1) / M of what nobody nominated.
    """
    k, members = config.sam_fraction, config.members
    union, nobody = 1 - (1 - k) ** (members - 1), (1 - k) ** members
    dealt = {"code": 1 / members, "code_boost": (members - 1) / members}
    return union + nobody * dealt.get(config.split, 0.0)


def gradient_passes(config: TrainConfig, samples: int) -> float:
    """Training of the whole ensemble, in passes forward of one image.

    A gradient is 3 passes, SGD takes one gradient a sample, SAM two. SharpBalance takes
    two in its T_d warm-up epochs, then one and `sam_share`; its split needs each
    sample's own gradient once.

    Args:
        config: method, members, epochs, split.
        samples: training images.
    """
    gradients = {"sgd": 1.0, "sam": 2.0}.get(config.method, 0.0) * config.epochs
    if config.method == "sharpbalance":
        rest = config.epochs - config.warmup_epochs
        gradients = 2 * config.warmup_epochs + 1 + rest * (1 + sam_share(config))
    return GRADIENT * gradients * config.members * samples


class Rate(NamedTuple):
    """An assumed speed, and of what."""

    tflops: float
    device: str  # "GPU" or "CPU core"


def assumed_rate(config: TrainConfig, preset: str = "class") -> Rate:
    """Which of the two assumed speeds is for these settings.

    The GPU's if the device is one, or "auto" at preset "paper", or with a GPU in this
    machine.
    """
    made_for_it = preset == "paper" or torch.cuda.is_available()
    on_gpu = config.device != "cpu" and (config.device != "auto" or made_for_it)
    return Rate(GPU_TFLOPS, "GPU") if on_gpu else Rate(CPU_TFLOPS, "CPU core")


def hours(flops: float | int, tflops: float | int) -> float:
    """Hours of one GPU or CPU core that sustains so many TFLOP/s.

    Raises:
        ValueError: tflops <= 0.
    """
    if not tflops > 0:
        raise ValueError(
            f"a rate of {tflops} TFLOP/s never ends; write a positive number, such as "
            f"{GPU_TFLOPS:g} for a GPU"
        )
    return flops / (tflops * 1e12) / 3600
