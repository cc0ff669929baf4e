"""Training steps of this package against the ordinary way, as ratios.

    python benchmarks/step.py [--repeats 5] [--models small_cnn resnet8 resnet18]

The ordinary way is what research scripts do: members in turn, a `DataLoader` with PIL
transforms (crop, flip, to tensor, normalise), contiguous tensors, an unfused optimizer,
SAM by in-place steps, and for SharpBalance a Python list in which each sample's index
is looked up, one NumPy integer after the other, as in the published code. Both do the
same arithmetic on the same network. They are timed in turn, A B A B ..., in one process
with one thread; a ratio is the median over the pairs.
"""

import argparse
import itertools
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from turns import in_turns

from sbtutor import data, models
from sbtutor.batches import Batches
from sbtutor.config import Experiment, ModelConfig, TrainConfig
from sbtutor.epochs import train_step
from sbtutor.state import fresh

MEMBERS, RHO, SAM_SHARE, CROP = 3, 0.1, 0.6, 4
IMAGES = 45_000  # as in the papers; the list of plain samples has 18,000 entries
CASES = {  # model, width, pixels, channels, batch size, steps a measurement
    "small_cnn": (ModelConfig(name="small_cnn", width=16), 8, 1, 64, 20),
    "resnet8": (ModelConfig(name="resnet8"), 32, 3, 128, 3),
    "resnet18": (ModelConfig(name="resnet18"), 32, 3, 16, 2),
}


class PilImages(Dataset):
    """As torchvision's data sets: each call makes a PIL image and transforms it."""

    def __init__(self, split: data.Split) -> None:
        """Keep the pixels; greyscale or RGB."""
        self.pixels = split.images.permute(0, 2, 3, 1).squeeze(3).numpy()
        self.labels = split.labels.tolist()
        channels, side = split.images.shape[1:3]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(side, padding=CROP),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * channels, (0.25,) * channels),
            ]
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int, int]:
        """One transformed image, its label and its index."""
        return self.transform(Image.fromarray(self.pixels[i])), self.labels[i], i


def ordinary_gradient(
    member: nn.Module, images: Tensor, labels: Tensor, sam: list[bool]
) -> None:
    """Leave the mixed gradient in `.grad`, by in-place steps."""
    params = list(member.parameters())
    normal = [i for i, chosen in enumerate(sam) if not chosen]
    chosen = [i for i, is_sam in enumerate(sam) if is_sam]
    share = len(chosen) / len(sam)
    kept = [torch.zeros_like(p) for p in params]
    if normal:
        member.zero_grad()
        F.cross_entropy(member(images[normal]), labels[normal]).backward()
        kept = [(1 - share) * p.grad.clone() for p in params]
    if not chosen:
        for p, g in zip(params, kept, strict=True):
            p.grad = g
        return
    member.zero_grad()
    F.cross_entropy(member(images[chosen]), labels[chosen]).backward()
    with torch.no_grad():
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        steps = [RHO * p.grad / (norm + 1e-12) for p in params]
        for p, step in zip(params, steps, strict=True):
            p.add_(step)
    member.zero_grad()
    F.cross_entropy(member(images[chosen]), labels[chosen]).backward()
    with torch.no_grad():
        for p, step, g in zip(params, steps, kept, strict=True):
            p.sub_(step)
            p.grad.mul_(share).add_(g)


def ordinary_steps(
    case: str, split: data.Split, method: str, masks: Tensor
) -> Callable[[], int]:
    """A function that trains some steps and returns the member-samples it used."""
    config, _, _, batch_size, steps = CASES[case]
    shape = tuple(split.images.shape[1:])
    members = [models.build(config, shape, 10, m).train() for m in range(MEMBERS)]
    optimizers = [
        torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        for m in members
    ]
    normal_lists = [list((~mask).nonzero().squeeze(1).numpy()) for mask in masks]
    loader = DataLoader(PilImages(split), batch_size, shuffle=True, drop_last=True)
    endless = (batch for _ in itertools.count() for batch in loader)

    def run() -> int:
        used = 0
        for member, optimizer, normal in zip(
            members, optimizers, normal_lists, strict=True
        ):
            for images, labels, index in itertools.islice(endless, steps):
                if method == "sharpbalance":
                    sam = [i not in normal for i in index.tolist()]
                else:
                    sam = [method == "sam"] * len(labels)
                ordinary_gradient(member, images, labels, sam)
                optimizer.step()
                used += len(labels)
        return used

    return run


def our_steps(
    case: str, split: data.Split, method: str, masks: Tensor
) -> Callable[[], int]:
    """The same with the package's batches and gradient."""
    config, _, _, batch_size, steps = CASES[case]
    train = TrainConfig(
        method=method, batch_size=batch_size, crop=CROP, flip=True, lr=0.01, rho=RHO
    )
    experiment = Experiment(model=config, train=train)
    about = {"in_shape": split.images.shape[1:], "classes": 10}
    state = fresh(experiment, about)
    batches = Batches(split, train, torch.device("cpu"))
    endless = (batch for e in itertools.count() for batch in batches.epoch(e))

    def run() -> int:
        used = 0
        for step, batch in enumerate(itertools.islice(endless, steps)):
            train_step(state, batch, masks, train, step)
            used += batch.labels.numel()
        return used

    return run


def compare(case: str, method: str, repeats: int) -> None:
    """Print one line: both rates and the median of their ratios."""
    _, side, channels, _, _ = CASES[case]
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, channels, side, side)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (IMAGES,), generator=generator)
    split = data.Split(images, labels, tuple("0123456789"))
    masks = torch.full((MEMBERS, IMAGES), method == "sam")
    if method == "sharpbalance":
        masks = torch.rand(masks.shape, generator=generator) < SAM_SHARE
    theirs = ordinary_steps(case, split, method, masks)
    ours = our_steps(case, split, method, masks)
    found = in_turns(theirs, ours, repeats, per=float)  # a member and sample each
    print(
        f"{case:10} {method:13} ordinary {1 / found.theirs:7.0f}/s  "
        f"ours {1 / found.ours:7.0f}/s  {found}",
        flush=True,
    )


def main() -> None:
    """Compare all methods on the chosen models."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{MEMBERS} members, one thread, torch {torch.__version__}, {IMAGES:,} images"
    )
    for case in given.models:
        for method in ("sgd", "sam", "sharpbalance"):
            compare(case, method, given.repeats)


if __name__ == "__main__":
    main()
