"""What a batch ensemble of four costs, against one ResNet-8 and against four.

    python benchmarks/batch.py [--repeats 5] [--sides 16 32]

One network is trained on batches of 128 images, as fast as this package can. An
ensemble of four is trained on 32 images seen by all members: as many member-samples a
step. Ways to do that:

- deep ensemble: four networks in turn, 32 images each.
- batch ensemble: `tuning.training_loss`, whose L2 strengths are in the loss.
- hyper-batch ensemble: the same, with u = r and v = s, and after every third training
  step a tuning step on 32 images.

Time is that of a member-sample of training: forward, backward and the optimizer's
step. Each way is timed in turn with the one network, A B A B ..., in one process with
one thread; the cost is the median over the pairs of its time to the one network's. The
goal for the batch ensemble is at most 1.3. Memory is that of the weights, 4 bytes each;
gradients and SGD's momentum take as much again, and activations, by member-sample, are
the one network's, about twice as many in a hyper-batch ensemble.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from turns import Turns, in_turns

from sbtutor import models, tuning
from sbtutor.batch_ensemble import BatchEnsemble, convert
from sbtutor.config import ModelConfig

MEMBERS, BATCH, STEPS, SAMPLES, CLASSES = 4, 32, 6, 50_000, 10
EVERY = 3  # training steps for a tuning step
WIDE = MEMBERS * BATCH  # the one network's batch: as many images as member-samples
Run = Callable[[], int]


def network(side: int, seed: int = 0) -> nn.Module:
    """A ResNet-8, its weights with channels last."""
    model = models.build(ModelConfig(name="resnet8"), (3, side, side), CLASSES, seed)
    return model.to(memory_format=torch.channels_last)


def batch(images: int, side: int) -> tuple[Tensor, Tensor]:
    """Images whose content does not matter, channels last, and labels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(images, side, side, 3, generator=generator)
    labels = torch.randint(0, CLASSES, (images,), generator=generator)
    return pixels.permute(0, 3, 1, 2), labels


def sgd(params: list[Tensor], decay: float) -> torch.optim.Optimizer:
    """Small steps, so that nothing diverges."""
    options = dict(lr=1e-3, momentum=0.9, weight_decay=decay, fused=True)
    return torch.optim.SGD(params, **options)


def networks_in_turn(count: int, images: int, side: int) -> Run:
    """Trains `count` networks one after the other, each on so many images a step."""
    nets = [network(side, seed).train() for seed in range(count)]
    steps = [sgd(list(net.parameters()), 1e-4) for net in nets]
    x, y = batch(images, side)

    def run() -> int:
        for _ in range(STEPS):
            for net, step in zip(nets, steps, strict=True):
                step.zero_grad()
                F.cross_entropy(net(x), y, label_smoothing=0.01).backward()
                step.step()
        return STEPS * count * images

    return run


def uniform(ensemble: BatchEnsemble) -> Tensor:
    """A number for each hyperparameter of each member's examples."""
    return torch.rand(MEMBERS, BATCH, len(ensemble.names))


def batch_ensemble(side: int) -> Run:
    """Trains four members in one network, all on the same 32 images a step."""
    ensemble = convert(network(side), MEMBERS)
    step = sgd(list(ensemble.parameters()), 0.0)
    log_lambda = torch.full((WIDE, len(ensemble.names)), 0.01).log()
    x, y = batch(BATCH, side)

    def run() -> int:
        for _ in range(STEPS):
            step.zero_grad()
            loss = tuning.training_loss(ensemble, x, y, log_lambda, SAMPLES)
            loss.backward()
            step.step()
        return STEPS * WIDE

    return run


def hyper_batch_ensemble(side: int) -> Run:
    """The same, each example with hyperparameters of its own; and tuning steps."""
    ensemble = convert(network(side), MEMBERS, hyper=True, tied=True)
    step = sgd(list(ensemble.network.parameters()), 0.0)
    bounds = (ensemble.low, ensemble.high)
    tune = torch.optim.Adam(bounds, lr=1e-3)
    x, y = batch(BATCH, side)

    def run() -> int:
        for i in range(STEPS):
            step.zero_grad()
            log_lambda = ensemble.sample(uniform(ensemble)).detach()
            loss = tuning.training_loss(ensemble.train(), x, y, log_lambda, SAMPLES)
            loss.backward()
            step.step()
            if i % EVERY == EVERY - 1:
                tuning_step()
        return STEPS * WIDE

    def tuning_step() -> None:
        loss = tuning.tuning_loss(ensemble.eval(), x, y, uniform(ensemble), 1e-3)
        for bound, slope in zip(bounds, torch.autograd.grad(loss, bounds), strict=True):
            bound.grad = slope
        tune.step()
        ensemble.project()

    return run


WAYS: dict[str, Callable[[int], Run]] = {
    "deep ensemble": lambda side: networks_in_turn(MEMBERS, BATCH, side),
    "batch ensemble": batch_ensemble,
    "hyper-batch ensemble": hyper_batch_ensemble,
}


def cost(found: Turns) -> str:
    """Times the one network's time: the median and the range."""
    costs = sorted(1 / ratio for ratio in found.ratios)
    return f"{statistics.median(costs):5.2f} ({costs[0]:.2f} to {costs[-1]:.2f})"


def compare(way: str, side: int, repeats: int) -> None:
    """Print one line: both rates and the cost."""
    one, four = networks_in_turn(1, WIDE, side), WAYS[way](side)
    found = in_turns(one, four, repeats, per=float)  # a member-sample each
    print(
        f"{side} x {side}  {way:20}  one network {1 / found.theirs:6.0f}/s  "
        f"ensemble {1 / found.ours:6.0f}/s  cost {cost(found)}",
        flush=True,
    )


def compare_weights() -> None:
    """Print a line for each way: its parameters, as a ratio and in megabytes."""
    model = network(32)
    ensembles = {
        "one network": [model],
        "deep ensemble": [network(32, seed) for seed in range(MEMBERS)],
        "batch ensemble": [convert(model, MEMBERS)],
        "hyper-batch ensemble": [convert(model, MEMBERS, hyper=True, tied=True)],
    }
    single = sum(p.numel() for p in model.parameters())
    for way, parts in ensembles.items():
        count = sum(p.numel() for part in parts for p in part.parameters())
        print(
            f"{way:20}  {count:9,} parameters  {4 * count / 1e6:5.2f} MB  "
            f"ratio {count / single:.3f}"
        )


def main() -> None:
    """Compare parameters, then times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sides", type=int, nargs="+", default=[16, 32])
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"ResNet-8, {MEMBERS} members, one thread, torch {torch.__version__}")
    compare_weights()
    for side in given.sides:
        for way in WAYS:
            compare(way, side, given.repeats)


if __name__ == "__main__":
    main()
