"""How much sooner StarSSE's cycles end side by side than one after the other.

    python benchmarks/star.py [--repeats 3] [--members 5] [--epochs 80]

ResNet-8 of width 8, 500 fashion-mini images of 14x14 pixels: lesson 05 at preset class.
Cycles take turns in one process with one torch thread, or run in as many processes as
there are cores, one thread each; the time to start these is counted. Both ways give the
same networks, bit for bit, which is checked. The ratio is of their times, above 1 where
several processes are faster: at most the number of cores.
"""

import argparse

import torch
from torch import nn
from turns import in_turns

from sbtutor import cycles, data, models, transfer, workers
from sbtutor.config import DataConfig, ModelConfig, TrainConfig


def main() -> None:
    """Time both ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=80)
    given = parser.parse_args()
    torch.set_num_threads(1)
    whole = data.load(DataConfig(name="fashion-mini", size=14, limit=1000)).train
    split = data.only(whole, whole.classes[:5])
    model = ModelConfig(name="resnet8", width=8)
    first = models.build(model, tuple(split.images.shape[1:]), 5, seed=0)
    cycle = TrainConfig(
        method="sgd",
        schedule="cosine",
        epochs=given.epochs,
        batch_size=50,
        crop=1,
        flip=True,
    )

    def star(jobs: int) -> list[nn.Module]:
        return transfer.star_sse(first, split, cycle, given.members, jobs=jobs)

    cores = workers.cores()
    timed = in_turns(lambda: star(1), lambda: star(cores), given.repeats)
    alone, beside = ([cycles.digest(m) for m in members] for members in timed.values)
    assert alone == beside, "the number of processes has changed the networks"
    print(
        f"{given.members - 1} cycles of {given.epochs} epochs, {len(split.labels)} "
        f"images: {timed.theirs:.1f} s in turn, {timed.ours:.1f} s on {cores} cores; "
        f"{timed}"
    )


if __name__ == "__main__":
    main()
