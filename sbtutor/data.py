"""Images and labels as tensors: the embedded sets, torchvision's, imported ones."""

import gzip
import hashlib
import importlib.resources
import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from sbtutor import cache
from sbtutor.cache import import_images
from sbtutor.config import DataConfig

__all__ = ["Split", "Splits", "import_images", "load", "only", "subset", "to_float"]

# Where Debian's package dataset-fashion-mnist puts its four files.
LOCAL_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
VALIDATION = 0.1  # share of the training images where a set has no validation split


@dataclass(frozen=True)
class Split:
    """N images with their labels, in a shuffled order."""

    images: UInt8[Tensor, "N C H W"]
    labels: Int[Tensor, " N"]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse labels that name no class, and images that are not images."""
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise ValueError(
                "images must be uint8 (N, C, H, W), got "
                f"{self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"{len(self.images)} images need as many labels, got shape "
                f"{tuple(self.labels.shape)}"
            )
        if self.labels.dtype != torch.int64:
            raise ValueError(f"labels must be int64, got {self.labels.dtype}")
        wrong = (self.labels < 0) | (self.labels >= len(self.classes))
        if wrong.any():
            raise ValueError(
                f"label {int(self.labels[wrong][0])} is out of range: there are "
                f"{len(self.classes)} classes, so labels run from 0 to "
                f"{len(self.classes) - 1}"
            )


class Splits(NamedTuple):
    """What to train on, what to choose settings with, what to report."""

    train: Split
    val: Split
    test: Split


def to_float(images: Tensor) -> Float[Tensor, "..."]:
    """uint8 in [0, 255] to float32 in [0, 1]; what is already floating stays."""
    return images if images.is_floating_point() else images.float() / 255


def channel_statistics(
    images: UInt8[Tensor, "N C H W"],
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Mean and standard deviation of each channel, of images scaled to [0, 1].

    The deviation of a constant channel is set to 1, so that it can be divided by.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = [
        images[:, c].flatten().bincount(minlength=256) for c in range(images.shape[1])
    ]
    weights = torch.stack(counts).cpu().double()  # how often each value occurs
    pixels = weights.sum(1)
    mean = weights @ values / pixels
    squares = (weights * (values - mean[:, None]).square()).sum(1)
    std = (squares / (pixels - 1).clamp_min(1)).sqrt()
    return mean.float(), torch.where(std > 0, std, 1.0).float()


def _balanced(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices of `count` samples, the classes as equal as possible, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    seen = F.one_hot(labels[order]).cumsum(0)
    rank_in_class = seen.gather(1, labels[order][:, None]).squeeze(1)
    chosen = order[rank_in_class.argsort(stable=True)[:count]]
    return chosen[torch.randperm(count, generator=generator)]


def _at(split: Split, index: Tensor) -> Split:
    return Split(split.images[index], split.labels[index], split.classes)


def subset(split: Split, count: int, seed: int) -> Split:
    """`count` samples of a split, the classes as equal as possible, shuffled.

    Raises:
        ValueError: fewer than one sample asked for, or more than there are.
    """
    if not 1 <= count <= len(split.labels):
        raise ValueError(
            f"cannot take {count} of {len(split.labels)} images; write a number from "
            f"1 to {len(split.labels)}"
        )
    return _at(split, _balanced(split.labels, count, seed))


def only(split: Split, classes: Sequence[str]) -> Split:
    """The images of these classes, numbered anew in the order given.

    Raises:
        ValueError: fewer than two classes, one named twice, or one that is not there.
    """
    if len(set(classes)) != len(classes) or len(classes) < 2:
        raise ValueError(f"name two classes or more, each once, got {list(classes)}")
    for name in classes:
        if name not in split.classes:
            raise ValueError(
                f"there is no class {name!r}; the classes are "
                f"{', '.join(split.classes)}"
            )
    numbers = torch.tensor([split.classes.index(name) for name in classes])
    same = split.labels[:, None] == numbers
    kept = same.any(1)
    labels = same[kept].long().argmax(1)
    return Split(split.images[kept], labels, tuple(classes))


def _cut(split: Split, count: int, seed: int) -> tuple[Split, Split]:
    """The rest, and `count` class-balanced samples; both shuffled."""
    taken = _balanced(split.labels, count, seed)
    rest = torch.ones(len(split.labels), dtype=torch.bool).index_fill(0, taken, False)
    rest = rest.nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(seed)
    rest = rest[torch.randperm(len(rest), generator=generator)]
    return _at(split, rest), _at(split, taken)


def resized(split: Split, size: int) -> Split:
    """Smaller by averaging areas, larger by bilinear interpolation."""
    images = split.images.float()
    if size <= min(images.shape[2:]):
        images = F.adaptive_avg_pool2d(images, size)
    else:
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    images = images.round().clamp(0, 255).to(torch.uint8)
    return Split(images, split.labels, split.classes)


def _fashion_mini(config: DataConfig) -> Splits:
    """10,000 Fashion-MNIST images that come with the package."""
    assets = importlib.resources.files("sbtutor") / "assets"
    content = (assets / "fashion-mini.npz").read_bytes()
    wanted = (assets / "fashion-mini.sha256").read_text().split()[0]
    if hashlib.sha256(content).hexdigest() != wanted:
        raise ValueError(
            f"{assets / 'fashion-mini.npz'} was altered (its sha256 does not fit); "
            "reinstall sbtutor"
        )
    with np.load(io.BytesIO(content)) as saved:
        classes = tuple(saved["classes"].tolist())
        return Splits(
            *(
                Split(
                    torch.from_numpy(saved[f"{part}_images"])[:, None],
                    torch.from_numpy(saved[f"{part}_labels"]).long(),
                    classes,
                )
                for part in Splits._fields
            )
        )


def _digits(config: DataConfig) -> Splits:
    """1,797 handwritten digits of 8x8 pixels, from scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8)
    labels = torch.from_numpy(bunch.target).long()
    whole = Split(images[:, None], labels, tuple("0123456789"))
    rest, test = _cut(whole, 500, config.seed)
    train, val = _cut(rest, 200, config.seed)
    return Splits(train, val, test)


def _with_validation(train: Split, test: Split, seed: int) -> Splits:
    """Cut the validation split from the training images; shuffle the test images."""
    train, val = _cut(train, max(1, round(VALIDATION * len(train.labels))), seed)
    left = train.labels.bincount(minlength=len(train.classes))
    if (left == 0).any():
        name = train.classes[int((left == 0).nonzero()[0])]
        raise ValueError(
            f"class {name!r} has too few images: the validation split, cut from train, "
            "took all of them; add images, or a val/ folder of your own"
        )
    return Splits(train, val, subset(test, len(test.labels), seed))


def _idx(path: Path) -> Tensor:
    """A file of the MNIST format: magic number, sizes, bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
        dims = np.frombuffer(content, ">i4", content[3], offset=4)
        body = np.frombuffer(content, np.uint8, offset=4 + dims.nbytes)
        return torch.from_numpy(body.reshape(dims).copy())
    except (OSError, EOFError, zlib.error, IndexError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); install it again") from None


FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def _local_fashion_mnist() -> tuple[Split, Split] | None:
    parts = []
    for part in ("train", "t10k"):
        images = LOCAL_FASHION_MNIST / f"{part}-images-idx3-ubyte.gz"
        labels = LOCAL_FASHION_MNIST / f"{part}-labels-idx1-ubyte.gz"
        if not (images.exists() and labels.exists()):
            return None
        split = Split(_idx(images)[:, None], _idx(labels).long(), FASHION_CLASSES)
        parts.append(split)
    return parts[0], parts[1]


def _torchvision(name: str, root: Path) -> tuple[Split, Split]:
    """Train and test of one of torchvision's sets, downloaded if need be."""
    from torchvision import datasets

    kinds = {
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
    }
    parts = []
    for is_train in (True, False):
        try:
            found = kinds[name](root, train=is_train, download=False)
        except RuntimeError:
            found = kinds[name](root, train=is_train, download=True)
        pixels = torch.as_tensor(np.asarray(found.data))
        pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
        labels = torch.as_tensor(found.targets).long()
        parts.append(Split(pixels.contiguous(), labels, tuple(found.classes)))
    return parts[0], parts[1]


def _public(config: DataConfig) -> Splits:
    """A set that torchvision can download; local copies go first."""
    root, name = cache.root(config.root), config.name
    if name == "fashion-mnist":
        found = _local_fashion_mnist()
        if found is not None:
            return _with_validation(*found, config.seed)
    try:
        train, test = _torchvision(name, root)
    except (OSError, RuntimeError) as error:
        also = f" and {LOCAL_FASHION_MNIST}" if name == "fashion-mnist" else ""
        raise ValueError(
            f"{name} is not in {root}{also}, and could not be downloaded "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
            "if you have its images, write: "
            f"python -m sbtutor.data import ARCHIVE --name {name}"
        ) from None
    return _with_validation(train, test, config.seed)


def _imported(config: DataConfig) -> Splits | None:
    """A set that `import_images` has put into the cache, if there is one."""
    path = cache.path_of(config.name, config.root)
    if not path.exists() and config.name == "tiny-imagenet":
        for source in ("tiny-imagenet-200", "tiny-imagenet-200.zip"):
            if (path.parent / source).exists():
                import_images(path.parent / source, config.name, path.parent)
                break
    if not path.exists():
        return None
    saved = cache.load(path)
    parts = {
        part: Split(*saved[part], tuple(saved["classes"]))
        for part in Splits._fields
        if part in saved
    }
    if "val" not in parts:
        return _with_validation(parts["train"], parts["test"], config.seed)
    return Splits(
        *(
            subset(parts[part], len(parts[part].labels), config.seed)
            for part in Splits._fields
        )
    )


BUILT_IN: dict[str, Callable[[DataConfig], Splits]] = {
    "fashion-mini": _fashion_mini,
    "digits": _digits,
    "fashion-mnist": _public,
    "cifar10": _public,
    "cifar100": _public,
}


def load(config: DataConfig) -> Splits:
    """Train, validation and test split of a data set.

    Looked for in this order: an imported set of that name, the built-in one (for
    `fashion-mnist`, `cifar10` and `cifar100`: local files, then a download).

    Args:
        config: `limit` keeps that many training images, class-balanced; `size`
            resizes all splits; `seed` decides which images `limit` and the
            validation cut take. The same config gives the same splits.

    Raises:
        ValueError: unknown name, data neither found nor downloaded, more images
            asked for than there are, a broken file.
    """
    splits = None
    if config.name not in cache.EMBEDDED:
        splits = _imported(config)
    if splits is None:
        if config.name not in BUILT_IN:
            raise ValueError(_unknown(config))
        splits = BUILT_IN[config.name](config)
    train = splits.train
    if config.limit is not None:
        train = subset(train, config.limit, config.seed)
    splits = splits._replace(train=train)
    if config.size is not None:
        splits = Splits(*(resized(split, config.size) for split in splits))
    return splits


def _unknown(config: DataConfig) -> str:
    folder = cache.root(config.root)
    if config.name == "tiny-imagenet":
        return (
            f"tiny-imagenet is not in {folder}; put tiny-imagenet-200.zip there, or "
            "write: python -m sbtutor.data import ARCHIVE --name tiny-imagenet"
        )
    known = [*BUILT_IN, "tiny-imagenet", *cache.names(config.root)]
    near = get_close_matches(config.name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"unknown data set {config.name!r}: {hint}there are {', '.join(known)}; import "
        f"your own with: python -m sbtutor.data import ARCHIVE --name {config.name}"
    )


if __name__ == "__main__":
    cache.main()
