"""A plane through weight space, evaluated by this package and in two other ways.

    python benchmarks/plane.py [--repeats 5] [--threads 1]

One by one: each point's weights are set in the network and the network called, after
`torch.optim.swa_utils.update_bn` where it has BatchNorm. Stacked: 64 points
at once by `torch.func.vmap`, 25 images at a time, the fastest of several sizes on a
CPU; BatchNorm's statistics are there the mean over such batches. Each is timed in turn
with ours, A B A B ..., in one process; a ratio is the median over the pairs.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from turns import in_turns

from sbtutor import data, models, stack, vector
from sbtutor.config import ModelConfig

SIDE, PLANE = 14, 41 * 41  # pixels; points of a whole plane
POINTS, IMAGES, REFRESH = 64, 1000, 500  # points that are timed
CASES = {
    "batch norm": ModelConfig(name="small_cnn", width=8, norm="batch"),
    "no norm": ModelConfig(name="small_cnn", norm="none"),
}
Evaluate = Callable[[nn.Module, Tensor, data.Split, data.Split], Tensor]


def noise(samples: int) -> data.Split:
    """Images whose content does not matter."""
    generator = torch.Generator().manual_seed(samples)
    shape = (samples, 1, SIDE, SIDE)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return data.Split(images, torch.arange(samples) % 10, tuple("0123456789"))


def one_by_one(
    model: nn.Module, points: Tensor, test: data.Split, refresh: data.Split
) -> Tensor:
    """As in most scripts on loss landscapes."""
    net = copy.deepcopy(model)
    logits = []
    for point in points:
        nn.utils.vector_to_parameters(point, net.parameters())
        torch.optim.swa_utils.update_bn([data.to_float(refresh.images)], net)
        net.eval()
        with torch.no_grad():
            logits.append(net(data.to_float(test.images)))
    return torch.stack(logits)


@torch.no_grad()
def stacked(
    model: nn.Module, points: Tensor, test: data.Split, refresh: data.Split
) -> Tensor:
    """The points' convolutions as one convolution with groups."""
    net = copy.deepcopy(model)
    like = dict(net.named_parameters())
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    own = {name: 0 if "running" in name else None for name, _ in net.named_buffers()}
    buffers = {
        name: b if own[name] is None else b.repeat(len(points), 1)
        for name, b in net.named_buffers()
    }

    def forward(point: Tensor, buffers: dict[str, Tensor], images: Tensor) -> Tensor:
        state = vector.unflatten(point, like) | buffers
        return functional_call(net, state, (images,))

    run = vmap(forward, in_dims=(0, own, None))
    if norms:
        net.train()
        for images in data.to_float(refresh.images).split(25):
            run(points, buffers, images)
    net.eval()
    batches = data.to_float(test.images).split(25)
    return torch.cat([run(points, buffers, images) for images in batches], dim=1)


def compare(case: str, repeats: int) -> None:
    """Print a line for each other way: seconds of a plane and ratios."""
    model = models.build(CASES[case], (1, SIDE, SIDE), 10, seed=0).eval()
    center = stack.points_of([model])
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(POINTS, center.shape[1], generator=generator)
    args = (model, center + 0.01 * steps, noise(IMAGES), noise(REFRESH))
    torch.testing.assert_close(stack.logits_at(*args), one_by_one(*args))
    for name, other in (("one by one", one_by_one), ("stacked", stacked)):
        theirs, ours = partial(other, *args), partial(stack.logits_at, *args)
        found = in_turns(theirs, ours, repeats)
        theirs, ours = (t * PLANE / POINTS for t in (found.theirs, found.ours))
        print(
            f"{case:10}  {name:10} {theirs:6.1f} s a plane  ours {ours:5.1f} s  "
            f"{found}",
            flush=True,
        )


def main() -> None:
    """Compare on both models."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(
        f"{PLANE:,} points, {IMAGES:,} images of {SIDE} x {SIDE}, {REFRESH} for batch "
        f"norm; {given.threads} thread(s), torch {torch.__version__}"
    )
    for case in CASES:
        compare(case, given.repeats)


if __name__ == "__main__":
    main()
