"""How fast a device multiplies large matrices: what it can sustain at most."""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch


def seconds(run: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Wall time until the GPU has done all of it, and what `run` returned."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    value = run()
    wait()
    return time.perf_counter() - start, value


def _products(a: torch.Tensor, b: torch.Tensor, count: int) -> None:
    for _ in range(count):
        a @ b


def tflops(
    size: int, dtype: torch.dtype, precision: str, device: torch.device
) -> float:
    """TFLOP/s of ten products, best of five times; `precision` is that of float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        ten = functools.partial(_products, a, b, 10)
        ten()
        best = min(seconds(ten, device)[0] for _ in range(5)) / 10
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * size**3 / best / 1e12


def peaks(size: int, device: torch.device) -> dict[str, float]:
    """Measured TFLOP/s of large matrix products, by precision."""
    return {
        "bf16": tflops(size, torch.bfloat16, "highest", device),
        "tf32": tflops(size, torch.float32, "high", device),
        "fp32": tflops(size, torch.float32, "highest", device),
    }
