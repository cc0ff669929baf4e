"""The ordinary training loop: what research scripts do. `gpu.py` compares with it."""

import itertools
from collections.abc import Callable, Iterator

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from sbtutor import data
from sbtutor.config import TrainConfig
from sbtutor.gradient import frozen_statistics


class PilImages(Dataset):
    """As torchvision's data sets: each call makes a PIL image and transforms it."""

    def __init__(self, split: data.Split, crop: int) -> None:
        self.pixels = split.images.permute(0, 2, 3, 1).numpy()
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(split.images.shape[2], padding=crop),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),  # the network scales its images itself
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int, int]:
        return self.transform(Image.fromarray(self.pixels[i])), self.labels[i], i


def gradient(
    member: nn.Module, images: Tensor, labels: Tensor, sam: Tensor, rho: float
) -> None:
    """Leave the gradient of SGD, SAM or SharpBalance in `.grad`, by in-place steps."""
    params, share = list(member.parameters()), sam.float().mean().item()
    member.zero_grad()
    if share < 1:
        loss = F.cross_entropy(member(images[~sam]), labels[~sam])
        ((1 - share) * loss).backward()
    if share == 0:
        return
    kept = [None if p.grad is None else p.grad.clone() for p in params]
    member.zero_grad()
    F.cross_entropy(member(images[sam]), labels[sam]).backward()
    with torch.no_grad():
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        steps = [p.grad * (rho / (norm + 1e-12)) for p in params]
        torch._foreach_add_(params, steps)
    member.zero_grad()
    with frozen_statistics(member):
        loss = F.cross_entropy(member(images[sam]), labels[sam])
        (share * loss).backward()
    with torch.no_grad():
        torch._foreach_sub_(params, steps)
        for p, slope in zip(params, kept, strict=True):
            if slope is not None:
                p.grad += slope


def endless(
    split: data.Split, config: TrainConfig, jobs: int
) -> Iterator[list[Tensor]]:
    """Batches of images, labels, indices; no epoch ends, so none has to be started."""
    images = PilImages(split, config.crop)
    return iter(
        DataLoader(
            images,
            config.batch_size,
            sampler=RandomSampler(images, replacement=True, num_samples=10**9),
            num_workers=jobs,
            pin_memory=config.device.startswith("cuda"),
        )
    )


def loop(
    members: list[nn.Module],
    split: data.Split,
    masks: Tensor,
    config: TrainConfig,
    steps: int,
    jobs: int,
) -> Callable[[], int]:
    """A function that trains some steps a member, one member after the other.

    It returns how many images that were.
    """
    optimizers = [
        torch.optim.SGD(
            member.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        for member in members
    ]
    masks, loader = masks.to(config.device), endless(split, config, jobs)

    def run() -> int:
        used = 0
        for mask, member, optimizer in zip(masks, members, optimizers, strict=True):
            for batch in itertools.islice(loader, steps):
                parts = (part.to(config.device, non_blocking=True) for part in batch)
                images, labels, index = parts
                gradient(member, images, labels, mask[index], config.rho)
                optimizer.step()
                used += len(labels)
        return used

    return run
