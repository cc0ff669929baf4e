"""ResNet-50s to fine-tune: torchvision's of ImageNet, or those of files."""

import functools
from glob import glob
from pathlib import Path

import torch
import torchvision
from torch import nn

from sbtutor import cache, config, cost, pretrained

# torchvision's; the second weights come from a longer recipe.
WEIGHTS = {
    "resnet50": ("IMAGENET1K_V1", "IMAGENET1K_V2"),
    "resnet50_v2": ("IMAGENET1K_V2",),
}


@functools.lru_cache(maxsize=8)
def _network(path: Path | None, weights: str) -> nn.Module:
    """Read once in a process; nobody changes it."""
    return pretrained.load("resnet50", path, weights, head=path is None)


def load(name: str, count: int, root: Path | str | None = None) -> list[nn.Module]:
    """The first networks of that name, with any heads; torchvision's are downloaded.

    Args:
        name: one of `WEIGHTS`; or a file, or a pattern such as "byol/*.pth" for several
            in the order of their names.
        count: how many.
        root: what relative names are below, as in `DataConfig`.

    Raises:
        ValueError: too few files; no download; as `pretrained.load`.
    """
    if name in WEIGHTS:
        try:
            return [_network(None, weights) for weights in WEIGHTS[name][:count]]
        except ValueError as error:
            raise ValueError(
                f"checkpoint {name!r}: {error}, or in a sweep checkpoint: '...'"
            ) from None
    root = cache.root(root)
    found = sorted(Path(root, each) for each in glob(name, root_dir=root))
    config.check(
        len(found) >= count,
        f"checkpoint {name!r} names {len(found)} files below {root}, {count} needed; "
        "put them there, or write 'classes' or 'resnet50'",
    )
    return [_network(path, WEIGHTS["resnet50"][0]) for path in found[:count]]


@functools.cache
def flops(in_shape: tuple[int, int, int], classes: int) -> int:
    """Of an image's pass forward, at the 224 x 224 pixels that it is scaled to."""
    with torch.device("meta"):
        body = torchvision.models.resnet50(num_classes=classes)
    return cost.forward_flops(pretrained.for_images(body).to("meta"), in_shape)
