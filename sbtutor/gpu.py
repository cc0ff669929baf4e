"""What makes training faster on a GPU; on a CPU all of it does nothing."""

import contextlib
import functools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

SIDE_BY_SIDE = "SBTUTOR_SIDE_BY_SIDE"  # an environment variable: "on" or "off"


def side_by_side() -> bool:
    """Whether members share the GPU at the same time: $SBTUTOR_SIDE_BY_SIDE is "on".

    No setting of an experiment, since it changes no number.

    Raises:
        ValueError: the variable is neither "on" nor "off".
    """
    asked = os.environ.get(SIDE_BY_SIDE, "off")
    if asked not in ("on", "off"):
        raise ValueError(f"${SIDE_BY_SIDE} must be on or off, got {asked!r}")
    return asked == "on"


@functools.cache
def _streams(members: int, device: torch.device) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream(device) for _ in range(members)]


@contextlib.contextmanager
def lanes(members: int, device: torch.device) -> Iterator[list[AbstractContextManager]]:
    """A context for each member's part of a step.

    Side by side on a CUDA GPU these are streams, whose kernels may overlap: batches of
    small images do not fill a large card. They begin after what was asked of the GPU
    before, and what is asked of it afterwards waits for all of them; so nothing that is
    in use is overwritten. Otherwise the members follow one another.
    """
    if device.type != "cuda" or members == 1 or not side_by_side():
        yield [contextlib.nullcontext() for _ in range(members)]
        return
    main, streams = torch.cuda.current_stream(device), _streams(members, device)
    for stream in streams:
        stream.wait_stream(main)
    try:
        yield [torch.cuda.stream(stream) for stream in streams]
    finally:
        for stream in streams:
            main.wait_stream(stream)


@contextlib.contextmanager
def settings(device: torch.device, one_size: bool) -> Iterator[None]:
    """PyTorch's global switches for training, on a CUDA GPU; put back afterwards.

    Args:
        device: where the training is.
        one_size: all batches have one size (or two): then cuDNN tries its algorithms
            once. For SharpBalance's sub-batches it would try them for dozens of sizes.
    """
    if device.type != "cuda":
        yield
        return
    precision = torch.get_float32_matmul_precision()
    benchmark = torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")  # TF32, as convolutions have it anyway
    torch.backends.cudnn.benchmark = one_size
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
