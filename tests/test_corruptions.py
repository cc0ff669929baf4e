"""Corruptions: stronger with each severity, repeatable, and of the same shape."""

import itertools

import jaxtyping
import pytest
import torch

from sbtutor import corruptions, data
from sbtutor.config import DataConfig

SEVERITIES = (1, 2, 3, 4, 5)
NOISES = ("gaussian_noise", "impulse_noise")
each_kind = pytest.mark.parametrize("kind", corruptions.KINDS)


@pytest.fixture(scope="module", params=[14, 28])
def images(request):
    """500 real images, small or large."""
    config = DataConfig(name="fashion-mini", size=request.param)
    return data.subset(data.load(config).test, 500, seed=0).images


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """10 log10(255^2 / mean squared difference), in dB."""
    error = (one.double() - other.double()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def test_the_five_kinds():
    assert len(corruptions.KINDS) >= 5
    assert len(set(corruptions.KINDS)) == len(corruptions.KINDS)
    assert {"gaussian_noise", "impulse_noise", "defocus_blur", "contrast"} <= {
        *corruptions.KINDS
    }


@each_kind
def test_each_severity_is_stronger(kind, images):
    """The PSNR falls by at least half a dB a step, and 5 is plainly visible."""
    found = [psnr(corruptions.corrupt(images, kind, s), images) for s in SEVERITIES]
    assert all(a > b + 0.5 for a, b in itertools.pairwise(found)), found
    assert found[-1] < 25


@each_kind
@pytest.mark.parametrize(
    "shape", [(2, 1, 8, 8), (2, 3, 32, 32), (1, 1, 14, 9), (1, 3, 5, 28), (3, 1, 3, 3)]
)
def test_any_size_with_one_or_three_channels(kind, shape):
    before = random(*shape)
    given = before.clone()
    after = corruptions.corrupt(given, kind, 3)
    assert after.dtype == torch.uint8
    assert after.shape == shape
    assert torch.equal(given, before)  # the images given stay as they are


@each_kind
def test_equal_calls_give_equal_images(kind):
    before = torch.random.get_rng_state()
    images = random(4, 3, 16, 16)
    first, again = (corruptions.corrupt(images, kind, 2, seed=7) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("kind", NOISES)
def test_noise_depends_on_the_seed_and_the_severity(kind):
    images = torch.full((4, 1, 16, 16), 128, dtype=torch.uint8)
    found = [
        corruptions.corrupt(images, kind, severity, seed).double() - 128
        for severity, seed in ((3, 0), (3, 1), (4, 0))
    ]
    for i, j in ((0, 1), (0, 2)):
        both = torch.stack([found[i].flatten(), found[j].flatten()])
        assert both.corrcoef()[0, 1].abs() < 4 / 1024**0.5  # independent


@pytest.mark.parametrize("kind", NOISES)
def test_noise_differs_between_images(kind):
    images = torch.full((2, 1, 16, 16), 128, dtype=torch.uint8)
    first, second = corruptions.corrupt(images, kind, 3)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_no_bias_on_middle_grey(severity):
    images = torch.full((64, 1, 32, 32), 128, dtype=torch.uint8)
    change = corruptions.corrupt(images, "gaussian_noise", severity).double() - 128
    assert change.mean().abs() < 4 * change.std() / change.numel() ** 0.5


def test_impulse_noise_makes_pixels_black_or_white_only():
    images = torch.full((64, 1, 32, 32), 100, dtype=torch.uint8)
    found = corruptions.corrupt(images, "impulse_noise", 5)
    assert set(found.unique().tolist()) == {0, 100, 255}
    black, white = ((found == v).double().mean() for v in (0, 255))
    assert (black - white).abs() < 4 * (2 * black / found.numel()) ** 0.5


@pytest.mark.parametrize(
    "kind", [k for k in corruptions.KINDS if k.endswith("blur")] + ["contrast"]
)
@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_a_constant_image_has_nothing_to_blur_or_to_fade(kind, level):
    images = torch.full((2, 3, 12, 10), level, dtype=torch.uint8)
    assert torch.equal(corruptions.corrupt(images, kind, 5), images)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_moves_pixels_towards_the_images_mean(severity):
    images = random(8, 3, 16, 16).double()
    found = corruptions.corrupt(images.to(torch.uint8), "contrast", severity).double()
    mean = images.mean((2, 3), keepdim=True)
    share = (found - mean).std((1, 2, 3)) / (images - mean).std((1, 2, 3))
    assert (share < 0.95).all()
    assert (share - share.mean()).abs().max() < 0.01  # one factor for all images
    assert (found.mean((2, 3), keepdim=True) - mean).abs().max() < 0.5


def test_a_blur_spreads_a_point_evenly():
    images = torch.zeros(1, 1, 15, 15, dtype=torch.uint8)
    images[..., 7, 7] = 255
    found = corruptions.corrupt(images, "defocus_blur", 3)
    assert found[..., 7, 7] < 255
    for flipped in (found.flip(2), found.flip(3), found.transpose(2, 3)):
        assert torch.equal(flipped, found)


def test_an_unknown_kind_lists_the_known():
    with pytest.raises(
        ValueError, match=r"unknown corruption 'rain': .*gaussian_noise"
    ):
        corruptions.corrupt(random(1, 1, 8, 8), "rain", 1)


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_a_severity_outside_1_to_5_is_named(severity):
    with pytest.raises(ValueError, match=f"from 1 to 5, got {severity}"):
        corruptions.corrupt(random(1, 1, 8, 8), "contrast", severity)


@pytest.mark.parametrize(
    "images", [torch.rand(1, 1, 8, 8), random(1, 8, 8)], ids=["floats", "no channels"]
)
def test_images_of_another_kind_are_refused(monkeypatch, images):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"images must be uint8 .N, C, H, W., got"):
        corruptions.corrupt(images, "contrast", 1)
