"""The fifteen distortions behind `corruptions`, each a function of its name.

Each takes images x in [0, 1], a strength and a generator, and gives images that may
leave [0, 1]. A strength `per_side` is a length as a share of the shorter side, so that
it looks alike at any size; `pixels` are pixels; the others have no length. Random
numbers are drawn on the CPU, each image its own; all else runs on the device of x.
"""

import io
import math

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Images = Float[Tensor, "N C H W"]
Layer = Float[Tensor, "N 1 H W"]  # one value for all channels of a pixel
Draw = torch.Generator
ICE = (0.85, 0.93, 1.0)  # red, green, blue


def gaussian_noise(x: Images, deviation: float, generator: Draw) -> Images:
    """Add independent normal noise to each value."""
    return x + deviation * torch.randn(x.shape, generator=generator).to(x.device)


def shot_noise(x: Images, photons: float, generator: Draw) -> Images:
    """Count photons: Poisson of mean photons * x, so the variance is x / photons."""
    counts = torch.poisson(photons * x.cpu(), generator=generator)
    return counts.to(x.device) / photons


def impulse_noise(x: Images, share: float, generator: Draw) -> Images:
    """Make single values black or white."""
    u = torch.rand(x.shape, generator=generator).to(x.device)
    return torch.where(u < share, (u < share / 2).to(x.dtype), x)


def defocus_blur(x: Images, pixels: float, generator: Draw) -> Images:
    """Blur with a Gaussian of that width, cut to 5x5 pixels."""
    from torchvision.transforms.v2 import functional as T  # takes 1 s, rarely needed

    return T.gaussian_blur(x, kernel_size=[5, 5], sigma=[pixels, pixels])


def glass_blur(x: Images, pixels: float, generator: Draw) -> Images:
    """Shuffle pixels with their neighbours, then blur a little.

    The shuffle's width counts at up to 32 pixels a side (no pixel moves by a part of
    itself) and grows in proportion above.
    """
    x = _shuffled(x, pixels * max(1, min(x.shape[2:]) / 32), generator)
    return defocus_blur(x, 0.5, generator)


def motion_blur(x: Images, per_side: float, generator: Draw) -> Images:
    """Average along a line of that length, within 45 degrees of the horizontal."""
    angle = math.pi / 4 * (2 * torch.rand(len(x), generator=generator) - 1)
    return _streaked(x, angle, per_side * min(x.shape[2:]))


def zoom_blur(x: Images, zoom: float, generator: Draw) -> Images:
    """Average zooms into the centre, by factors from 1 to 1 + zoom."""
    down, right = (torch.arange(side) - (side - 1) / 2 for side in x.shape[2:])
    place = torch.stack(torch.meshgrid(right, down, indexing="xy"), -1).to(x.device)
    shrink = [1 / (1 + zoom * t) - 1 for t in _steps(zoom * max(x.shape[2:]) / 2)]
    return sum(_warped(x, share * place[None]) for share in shrink) / len(shrink)


def snow(x: Images, amount: float, generator: Draw) -> Images:
    """White flakes, drawn out as they fall, before a whiter world."""
    side = min(x.shape[2:])
    # Flakes grow with the image, but more slowly: on small ones they are a pixel wide.
    knots = max(2, round(20 * (side / 32) ** 0.5))
    flakes = 2 * (_field(x, knots, 1, generator) - 2 + 1.5 * amount)
    angle = math.pi * (0.25 + 0.5 * torch.rand(len(x), generator=generator))
    flakes = _streaked(flakes.clamp(0, 1), angle, 0.12 * side)
    whiter = x + 0.5 * amount * (1 - x)
    return whiter + flakes * (1 - whiter)


def frost(x: Images, cover: float, generator: Draw) -> Images:
    """Needles of ice in three directions, thicker in some places than in others.

    The original lays photographs of frost over the images; this texture is made.
    """
    side = min(x.shape[2:])
    turn = math.pi * torch.rand(len(x), generator=generator)
    grains = _field(x, min(side, 32), 3, generator).split(1, dim=1)
    angles = [turn + third * math.pi / 3 for third in range(3)]
    needles = [_streaked(*pair, side / 3) for pair in zip(grains, angles)]
    ice = _stretched(torch.cat(needles, 1).amax(1, keepdim=True))
    ice = ice * (0.5 + _plasma(x, generator))
    tint = torch.tensor(ICE[-x.shape[1] :], device=x.device)[:, None, None]
    return x + (cover * ice).clamp(0, 1) * (tint - x)


def fog(x: Images, thickness: float, generator: Draw) -> Images:
    """White fog over all, at the thinnest place half as thick as at the thickest."""
    return x + thickness * (1 + _plasma(x, generator)) / 2 * (1 - x)


def brightness(x: Images, more: float, generator: Draw) -> Images:
    """Make all values lighter."""
    return x + more


def contrast(x: Images, kept: float, generator: Draw) -> Images:
    """Move all values towards their image's mean."""
    mean = x.mean((2, 3), keepdim=True)
    return mean + kept * (x - mean)


def elastic_transform(x: Images, per_side: float, generator: Draw) -> Images:
    """Stretch and squeeze: a smooth field of shifts, of about that deviation."""
    shift = per_side * min(x.shape[2:]) * _field(x, 6, 2, generator)
    return _warped(x, shift.permute(0, 2, 3, 1))


def pixelate(x: Images, resolution: float, generator: Draw) -> Images:
    """Means over blocks, that share of the pixels of each side in number."""
    rows, columns = (_blocks(side, resolution).to(x.device) for side in x.shape[2:])
    return rows @ x @ columns


def jpeg_compression(x: Images, quality: int, generator: Draw) -> Images:
    """Through a JPEG file of that quality, 1 to 100; this runs on the CPU."""
    pixels = (255 * x).round().to(torch.uint8).movedim(1, 3).cpu().numpy()
    coded = np.stack([_through_jpeg(image, quality) for image in pixels])
    return torch.from_numpy(coded).movedim(3, 1).to(x.device) / 255


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """(H, W, C) to the same; with PIL, as torchvision gives its coder up."""
    file = io.BytesIO()
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    picture.save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(image.shape)


def _shuffled(x: Images, pixels: float, generator: Draw) -> Images:
    """Each pixel some places off along its row, then along its column.

    Sorting the places plus normal noise gives a local permutation: no pixel is lost.
    """
    for _ in range(2):
        noise = torch.randn(len(x), 1, *x.shape[2:], generator=generator)
        order = (torch.arange(x.shape[3]) + pixels * noise).argsort(-1)
        x = x.gather(3, order.to(x.device).expand_as(x)).transpose(2, 3)
    return x


def _warped(x: Images, shift: Float[Tensor, "#N #H #W 2"]) -> Images:
    """At each pixel what x has `shift` = (right, down) pixels away.

    Bilinear between pixels, mirrored beyond the border.
    """
    size = torch.tensor([x.shape[3], x.shape[2]], device=x.device)
    here = torch.eye(2, 3, device=x.device).expand(len(x), 2, 3)
    grid = F.affine_grid(here, list(x.shape), align_corners=False) + shift * 2 / size
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _streaked(x: Images, angle: Float[Tensor, " N"], pixels: float) -> Images:
    """The mean of copies along a line of that length; angle 0 is horizontal."""
    line = torch.stack([angle.cos(), angle.sin()], -1)[:, None, None].to(x.device)
    places = [pixels * (t - 0.5) for t in _steps(pixels)]
    return sum(_warped(x, place * line) for place in places) / len(places)


def _steps(pixels: float) -> list[float]:
    """From 0 to 1, so finely that no step over that many pixels exceeds a pixel."""
    count = max(8, math.ceil(pixels))
    return [i / count for i in range(count + 1)]


def _field(
    x: Images, knots: int, layers: int, generator: Draw
) -> Float[Tensor, "N {layers} H W"]:
    """Smooth noise of the size of x through knots x knots normal numbers."""
    values = torch.randn(len(x), layers, knots, knots, generator=generator)
    size = list(x.shape[2:])
    return F.interpolate(values.to(x.device), size, mode="bicubic", align_corners=True)


def _plasma(x: Images, generator: Draw) -> Layer:
    """Fractal noise from 0 to 1: fields of 2, 4, 8 ... knots, each half as high."""
    octaves = range(1, max(2, min(x.shape[2:]).bit_length()))
    return _stretched(sum(_field(x, 2**k, 1, generator) / 2**k for k in octaves))


def _stretched(layer: Layer) -> Layer:
    """Shifted and scaled to run from 0 to 1 in each image."""
    layer = layer - layer.amin((2, 3), keepdim=True)
    return layer / layer.amax((2, 3), keepdim=True)


def _blocks(side: int, resolution: float) -> Float[Tensor, "{side} {side}"]:
    """The symmetric matrix that puts a block's mean in place of each of its pixels."""
    block = torch.arange(side) * max(1, round(resolution * side)) // side
    same = (block[:, None] == block).float()
    return same / same.sum(0)
