"""Sharpness measures of this package against the ordinary way, as ratios.

    python benchmarks/sharpness.py [--repeats 5] [--models resnet8 resnet18]

- Fisher: per-sample gradients by `vmap(grad)`, 16 samples at once, all parameters of a
  sample put into one vector and squared; ours with its default batches of 32. Memory is
  what the peak is above the memory in use before, each way in a fresh process.
- Worst case (adaptive l2, 20 steps): dictionaries of tensors, the network copied at
  each new best place, a second forward pass for each place's loss, as in the published
  code.
- Hessian products: double backward on a list of tensors.

Both ways do the same on the same network, and the values are compared; only the row
"worst case" has our default rule on the one side and the published code's on the other
(the same number of gradients, another value). They are timed in turn, A B A B ..., in
one process with one thread; a ratio is the median over the pairs.
"""

import argparse
import copy
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from turns import in_turns

from sbtutor import models, sharpness, vector
from sbtutor.config import ModelConfig

SAMPLES = {"resnet8": 256, "resnet18": 32}  # of the Fisher trace
CHUNK, BATCH, PROBES, RHO = 16, 32, 5, 0.5


def case(name: str, samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    """An untrained network in eval mode, random images and labels."""
    model = models.build(ModelConfig(name=name), (3, 32, 32), 10, 0)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(samples, 3, 32, 32, generator=generator)
    with torch.no_grad():
        model.train()(images[:CHUNK])  # moves the running statistics
    return model.eval(), images, torch.randint(0, 10, (samples,), generator=generator)


def ordinary_fisher(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """All gradients of 16 samples side by side."""
    params = sharpness.parameters_of(model)

    def loss(params: dict, image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, params, (image[None],))
        return F.cross_entropy(logits, label[None])

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0))
    norms = []
    for x, y in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
        slopes = per_sample(params, x, y)
        flat = torch.cat([s.flatten(1) for s in slopes.values()], dim=1)
        norms.append(flat.square().sum(1))
    return torch.cat(norms)


def ordinary_worst_case(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The published code's ascent: same rule as ours with rule="code"."""
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    delta = {n: torch.zeros_like(p) for n, p in start.items()}
    before, size, size_then = delta, 2 * RHO, 2 * RHO
    marks, rises, since = (5, 9, 12, 15, 16, 18, 19), 0, 0
    with torch.no_grad():
        first = best = best_then = F.cross_entropy(model(images), labels)
    best_state = copy.deepcopy(model.state_dict())
    for step in range(20):
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        slope = {n: p.grad for n, p in model.named_parameters()}
        with torch.no_grad():
            length = torch.stack([g.norm() for g in slope.values()]).norm()
            ahead = {
                n: d + size * slope[n] / (length + 1e-12) * start[n].abs()
                for n, d in delta.items()
            }
            ahead = onto_ellipsoid(ahead, start)
            ahead = {n: 0.75 * ahead[n] + 0.25 * before[n] for n in ahead}
            before, delta = delta, ahead
            for n, p in model.named_parameters():
                p.copy_(start[n] + delta[n])
            loss = F.cross_entropy(model(images), labels)
        if loss > best:
            best, best_state = loss, copy.deepcopy(model.state_dict())
            rises += 1
        if step in marks:
            few = rises < 0.75 * (step - since)
            stuck = size == size_then and bool(best == best_then)
            size_then, best_then, rises, since = size, best, 0, step
            if few or stuck:
                size /= 2
                model.load_state_dict(best_state)
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(start[n])
    return best - first


def onto_ellipsoid(delta: dict, start: dict) -> dict:
    """The nearest point with || delta / |w| || <= rho, by bisection to 1e-5."""

    def length(a: float) -> float:
        parts = [
            (d / (1 + 2 * a / start[n].square().clamp(min=1e-30)))
            / start[n].abs().clamp(min=1e-15)
            for n, d in delta.items()
        ]
        return float(torch.stack([p.norm() for p in parts]).norm())

    if length(0.0) <= RHO:
        return delta
    low, high = 0.0, 1.0
    while length(high) > RHO:
        high *= 2
    while high - low > 1e-5 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if length(middle) > RHO else (low, middle)
    return {
        n: d / (1 + 2 * high / start[n].square().clamp(min=1e-30))
        for n, d in delta.items()
    }


def probes(model: nn.Module) -> list[Tensor]:
    """Random vectors for the Hessian products."""
    generator = torch.Generator().manual_seed(0)
    size = sum(p.numel() for p in model.parameters())
    return [torch.randn(size, generator=generator) for _ in range(PROBES)]


def ordinary_products(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """H v for each probe, summed, on a list of tensors."""
    weights = list(model.parameters())
    loss = F.cross_entropy(model(images), labels)
    slopes = torch.autograd.grad(loss, weights, create_graph=True)
    total = 0
    for v in probes(model):
        parts = v.split([w.numel() for w in weights])
        parts = [part.view_as(w) for part, w in zip(parts, weights, strict=True)]
        bent = torch.autograd.grad(slopes, weights, parts, retain_graph=True)
        total += sum((a * b).sum() for a, b in zip(parts, bent, strict=True))
    return total.detach()


def our_products(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The same by `vector.hessian_product`."""
    loss_fn = sharpness.loss_of(model, images, labels)
    product = vector.hessian_product(loss_fn, sharpness.parameters_of(model))
    return sum(v @ product(v) for v in probes(model))


def our_worst_case(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The package's ascent, by the published code's rule."""
    loss_fn = sharpness.loss_of(model, images, labels)
    params = sharpness.parameters_of(model)
    return sharpness.worst_case_sharpness(loss_fn, params, RHO, rule="code")


def our_textbook(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The package's ascent by its default rule: as many gradients, another value."""
    loss_fn = sharpness.loss_of(model, images, labels)
    params = sharpness.parameters_of(model)
    return sharpness.worst_case_sharpness(loss_fn, params, RHO)


Measure = Callable[[nn.Module, Tensor, Tensor], Tensor]
PAIRS: dict[str, tuple[Measure, Measure]] = {
    "fisher": (ordinary_fisher, sharpness.fisher_trace),
    "worst case, code": (ordinary_worst_case, our_worst_case),
    "worst case": (ordinary_worst_case, our_textbook),
    "hessian products": (ordinary_products, our_products),
}


def compare(what: str, name: str, repeats: int) -> None:
    """Print one line: both times, the median ratio, how far the values differ."""
    theirs, ours = PAIRS[what]
    given = case(name, SAMPLES[name] if what == "fisher" else BATCH)
    found = in_turns(partial(theirs, *given), partial(ours, *given), repeats)
    their_value, our_value = found.values
    error = float(((our_value - their_value) / their_value).abs().max())
    print(
        f"{name:9} {what:17} ordinary {found.theirs:6.2f} s  "
        f"ours {found.ours:6.2f} s  {found}  largest difference {error:.1e}",
        flush=True,
    )


def memory(field: str) -> float:
    """This process's own memory in MB: VmRSS now, VmHWM at its peak (Linux)."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak_growth(way: int, name: str) -> None:
    """Print by how many MB the peak of one Fisher pass is above the memory before."""
    given = case(name, SAMPLES[name])
    before = memory("VmRSS")
    PAIRS["fisher"][way](*given)
    print(memory("VmHWM") - before)


def compare_memory(name: str) -> None:
    """Print one line: both growths and their ratio."""
    grown = []
    for way in (0, 1):
        command = [sys.executable, __file__, "--peak", str(way), "--models", name]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        grown.append(float(said.stdout))
    print(
        f"{name:9} fisher, memory    ordinary {grown[0]:5.0f} MB  "
        f"ours {grown[1]:5.0f} MB  share {grown[1] / grown[0]:.2f}",
        flush=True,
    )


def main() -> None:
    """Compare everything on the chosen models."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=SAMPLES, default=list(SAMPLES))
    parser.add_argument("--peak", type=int, choices=(0, 1), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.peak is not None:
        peak_growth(given.peak, given.models[0])
        return
    print(f"one thread, torch {torch.__version__}")
    for name in given.models:
        for what in PAIRS:
            compare(what, name, given.repeats)
        compare_memory(name)


if __name__ == "__main__":
    main()
