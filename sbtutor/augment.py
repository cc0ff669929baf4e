"""What ImageNet networks are shown: random crops in training, the centre in a test."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from sbtutor.batches import stream
from sbtutor.descent import Change
from sbtutor.recipe import Recipe

AREA = (0.08, 1.0)  # of a random box: share of the image
RATIO = (3 / 4, 4 / 3)  # width : height
TRIES = 10  # boxes that are drawn until one fits
GREY, SPREAD = 0.45, 0.225  # mean and deviation of ImageNet, all channels together

# timm's strength 9 of 10 ("rand-m9"), which the published code takes: of torchvision's
# 31 steps, 9 would be a third of it.
_bend = v2.RandAugment(
    num_ops=2, magnitude=9, num_magnitude_bins=11, fill=round(255 * GREY)
)
_erase = v2.RandomErasing(p=0.25, value="random")  # by normal noise, pixel by pixel


class Resize(nn.Module):
    """The centre of images at the size that a network was pre-trained on.

    The shorter side becomes 8/7 of the size (256 for 224), bilinear with antialiasing;
    of that the centre is cut out. Images that have the size already are left alone, in
    training the crops of `random_crop`, so that both modes are one.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, size, size)."""
        if images.shape[-2:] == (self.size, self.size):
            return images
        images = v2.functional.resize(images, [round(8 / 7 * self.size)])
        return v2.functional.center_crop(images, [self.size, self.size])

    def extra_repr(self) -> str:
        """Shown by `repr`, and so a part of `cycles.digest`."""
        return f"size={self.size}"


def random_boxes(
    count: int, height: int, width: int, generator: torch.Generator
) -> Int[Tensor, "B 4"]:
    """A box in each image: its first row and column, its height and width, in pixels.

    Szegedy et al. 2015, drawn as by torchvision's RandomResizedCrop: area uniform in
    8 to 100 % of the image, width : height log-uniform in 3:4 to 4:3, the place uniform
    among those inside the image; drawn anew if it does not fit. After ten misses it is
    the whole image (torchvision's is then the largest centre of an allowed shape).
    """
    area, ratio = torch.rand(
        2, count, TRIES, generator=generator, dtype=torch.float64
    ).unbind()
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * area)
    low, high = (math.log(r) for r in RATIO)
    ratio = (low + (high - low) * ratio).exp()
    drawn = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], -1).round()
    whole = torch.tensor([height, width], dtype=torch.float64)
    fits = ((drawn >= 1) & (drawn <= whole)).all(-1)
    first = fits.int().argmax(1)  # of equal ones argmax takes the first
    sides = drawn[torch.arange(count), first]
    sides = torch.where(fits.any(1)[:, None], sides, whole)
    place = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    corner = (place * (whole - sides + 1)).floor()
    return torch.cat([corner, sides], 1).long()


def resized_crop(
    images: Float[Tensor, "B C H W"],
    boxes: Int[Tensor, "B 4"],
    mirrored: Bool[Tensor, " B"],
    size: int,
) -> Float[Tensor, "B C size size"]:
    """Each image's box, scaled to size x size, and mirrored or not; all at once.

    Bilinear, as if the box were cut out first: pixels beside it have no part. Without
    antialiasing, which changes nothing where images grow, as those of CIFAR do.
    """
    top, left, height, width = boxes.to(images).split(1, dim=1)
    steps = (torch.arange(size).to(images) + 0.5) / size  # 0 to 1, edge to edge

    def places(start: Tensor, length: Tensor, total: int) -> Tensor:
        inside = (steps * length - 0.5).clamp(min=0).minimum(length - 1)
        return (2 * (start + inside) + 1) / total - 1  # grid_sample's units

    rows = places(top, height, images.shape[2])
    columns = places(left, width, images.shape[3])
    mirrored = mirrored.to(images.device)[:, None]
    columns = torch.where(mirrored, columns.flip(1), columns)
    grid = torch.stack(
        [
            columns[:, None, :].expand(-1, size, -1),
            rows[:, :, None].expand(-1, -1, size),
        ],
        dim=-1,
    )
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def swin(
    images: Float[Tensor, "B C H W"], labels: Int[Tensor, " B"], classes: int
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B K"]]:
    """RandAugment, random erasing, and mixup or cutmix, as Swin networks are trained.

    Two random operations of RandAugment at strength 9 of 10; a rectangle of one image
    in four becomes noise, of the mean and deviation of ImageNet; then, with equal
    chance, the batch is mixed with itself by mixup (alpha 0.8) or cutmix (alpha 1).
    Liu et al. 2021, by torchvision's means: the published code has timm's, in which
    strengths vary and operations are bicubic. The first two go image by image, which
    takes longer than a GPU's step.

    Args:
        images: in [0, 1], 1 or 3 channels.
        labels: of K classes.
        classes: K.

    Returns:
        Images, and the probabilities of the classes. torch's global CPU generator
        decides.
    """
    bent = torch.stack([_bend(image) for image in (255 * images).round().byte()])
    scaled = (bent.to(images) / 255 - GREY) / SPREAD
    images = torch.stack([_erase(image) for image in scaled]) * SPREAD + GREY
    mixup = v2.MixUp(alpha=0.8, num_classes=classes)
    cutmix = v2.CutMix(alpha=1.0, num_classes=classes)
    images, shares = v2.RandomChoice([mixup, cutmix])(images, labels)
    return images, shares.to(images)


def change(how: Recipe, seed: int, epoch: int, classes: int) -> Change | None:
    """What an epoch's batches go through before the network sees them, if anything.

    The numbers drawn depend on seed and epoch alone; torch's global generator is left
    as it was. Call the result on an epoch's batches in their order.
    """
    if how.augment is None:
        return None
    generator = stream(seed, epoch, how.augment, "augment")

    def changed(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        boxes = random_boxes(len(images), *images.shape[2:], generator)
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = resized_crop(images, boxes, mirrored, how.size)
        if how.augment == "swin":
            draw = int(torch.randint(2**62, (), generator=generator))
            with torch.random.fork_rng(devices=[]):
                torch.random.default_generator.manual_seed(draw)
                images, labels = swin(images, labels, classes)
        return images.contiguous(memory_format=torch.channels_last), labels

    return changed
