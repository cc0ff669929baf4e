"""Corruptions: each does what its name says, more with each severity, repeatably."""

import itertools

import jaxtyping
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sbtutor import corruptions, data, distortions
from sbtutor.config import DataConfig

SEVERITIES = (1, 2, 3, 4, 5)
NOISES = ("gaussian_noise", "shot_noise", "impulse_noise")
FIXED = (
    *("defocus_blur", "zoom_blur", "brightness"),
    *("contrast", "pixelate", "jpeg_compression"),
)
RANDOM = tuple(kind for kind in corruptions.KINDS if kind not in FIXED)
DRAWING_OFTEN = ("glass_blur", "snow", "frost", "fog")
MOVING = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform")
WHITENING = ("snow", "frost", "fog", "brightness")
each_kind = pytest.mark.parametrize("kind", corruptions.KINDS)
each_severity = pytest.mark.parametrize("severity", SEVERITIES)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def smooth(count: int, side: int, knots: int) -> torch.Tensor:
    """Colour images without sharp edges, from knots x knots random colours each."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(count, 3, knots, knots, generator=generator)
    images = F.interpolate(colours, size=side, mode="bicubic", align_corners=True)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def flat(level: int, *shape: int) -> torch.Tensor:
    return torch.full(shape, level, dtype=torch.uint8)


@pytest.fixture(
    scope="module", params=["grey 14x14", "grey 28x28", "colour 16x16", "colour 32x32"]
)
def images(request):
    """Real grey images or made ones in colour, small or large."""
    colour, side = request.param.split()[0], int(request.param[-2:])
    if colour == "colour":
        return smooth(100, side, side // 3)
    config = DataConfig(name="fashion-mini", size=side)
    return data.subset(data.load(config).test, 100, seed=0).images


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """10 log10(255^2 / mean squared difference), in dB."""
    error = (one.double() - other.double()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def test_the_fifteen_kinds_in_the_order_of_cifar_10_c():
    assert (
        *("gaussian_noise", "shot_noise", "impulse_noise"),
        *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
        *("snow", "frost", "fog", "brightness"),
        *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    ) == corruptions.KINDS


@each_kind
def test_each_severity_is_stronger(kind, images):
    """The PSNR falls by at least half a dB a step, and 5 is plainly visible."""
    found = [psnr(corruptions.corrupt(images, kind, s), images) for s in SEVERITIES]
    assert all(a > b + 0.5 for a, b in itertools.pairwise(found)), found
    assert 5 < found[-1] < 25


@each_kind
@pytest.mark.parametrize(
    "shape",
    [
        *((2, 1, 8, 8), (2, 3, 32, 32), (2, 3, 64, 64), (1, 1, 14, 9)),
        *((1, 3, 5, 28), (3, 1, 3, 3), (3, 3, 3, 4)),
    ],
)
def test_any_size_with_one_or_three_channels(kind, shape):
    before = random(*shape)
    given = before.clone()
    after = corruptions.corrupt(given, kind, 3)
    assert after.dtype == torch.uint8
    assert after.shape == shape
    assert not torch.equal(after, before)
    assert torch.equal(given, before)  # the images given stay as they are


@each_kind
@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (0, 3, 32, 32)])
def test_an_empty_batch_stays_empty(kind, shape):
    assert corruptions.corrupt(random(*shape), kind, 1).shape == shape


@each_kind
def test_images_may_lie_in_memory_in_any_order(kind):
    images = random(4, 12, 10, 3).permute(0, 3, 1, 2)
    expected = corruptions.corrupt(images.contiguous(), kind, 4)
    assert torch.equal(corruptions.corrupt(images, kind, 4), expected)


@pytest.mark.parametrize(
    "kind",
    [k for k in corruptions.KINDS if k not in ("shot_noise", "jpeg_compression")],
)
def test_all_but_the_draw_runs_on_the_images_device(kind):
    """On "meta" nothing is computed, but a tensor left on the CPU is mostly found out.

    Photons are drawn, and JPEG files written, on the CPU: these two cannot run there.
    """
    images = torch.empty(2, 3, 32, 32, dtype=torch.uint8, device="meta")
    assert corruptions.corrupt(images, kind, 3).is_meta


@each_kind
def test_equal_calls_give_equal_images(kind):
    before = torch.random.get_rng_state()
    images = random(4, 3, 16, 16)
    first, again = (corruptions.corrupt(images, kind, 2, seed=7) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_random_numbers_are_those_of_the_first_five_kinds():
    """Committed results hang on them: gaussian noise has stream 0, impulse noise 1."""
    images = random(3, 1, 9, 7)
    draw = torch.Generator().manual_seed(1000 * 6 + 10 * 0 + 2)
    noise = 0.07 * torch.randn(images.shape, generator=draw)
    expected = ((images / 255 + noise).clamp(0, 1) * 255).round().to(torch.uint8)
    assert torch.equal(corruptions.corrupt(images, "gaussian_noise", 2, 6), expected)
    u = torch.rand(images.shape, generator=draw.manual_seed(10 * 1 + 5))
    found = corruptions.corrupt(images, "impulse_noise", 5)
    assert torch.equal(found[u >= 0.16], images[u >= 0.16])
    assert set(found[u < 0.16].tolist()) == {0, 255}


def test_every_kind_and_severity_has_random_numbers_of_its_own(monkeypatch):
    seeds = []

    def noted(x, strength, generator):
        seeds.append(generator.initial_seed())
        return x

    for kind in corruptions.KINDS:
        monkeypatch.setattr(distortions, kind, noted)
    for kind, severity in itertools.product(corruptions.KINDS, SEVERITIES):
        corruptions.corrupt(random(1, 1, 8, 8), kind, severity)
    assert len(set(seeds)) == 75
    assert max(seeds) < 1000  # where those of seed 1 begin


@each_kind
def test_cuts_change_no_image_of_the_kinds_that_draw_once_or_never(kind, monkeypatch):
    """Cut into 32, 32 and 6 images. Four kinds draw several times for all of a part."""
    images, sizes = random(70, 3, 16, 16), []
    expected = corruptions.corrupt(images, kind, 3)
    distort = getattr(distortions, kind)

    def watched(x, *rest):
        sizes.append(len(x))
        return distort(x, *rest)

    monkeypatch.setattr(distortions, kind, watched)
    monkeypatch.setattr(corruptions, "CHUNK", 40 * 3 * 16 * 16)
    found = corruptions.corrupt(images, kind, 3)
    assert sizes == [32, 32, 6]
    assert torch.equal(found, expected) == (kind not in DRAWING_OFTEN)


@pytest.mark.parametrize("kind", RANDOM)
def test_what_is_random_depends_on_the_batch(kind):
    """An image's place decides its noise, so a set is corrupted as a whole."""
    images = random(40, 3, 16, 16)
    whole = corruptions.corrupt(images, kind, 3)
    assert not torch.equal(corruptions.corrupt(images[20:], kind, 3), whole[20:])


@pytest.mark.parametrize("kind", FIXED)
def test_what_is_not_random_does_not_depend_on_the_batch(kind):
    images = random(40, 3, 16, 16)
    whole = corruptions.corrupt(images, kind, 3)
    assert torch.equal(corruptions.corrupt(images[20:], kind, 3), whole[20:])


@pytest.mark.parametrize("kind", RANDOM)
def test_what_is_random_differs_between_images_and_seeds(kind):
    images = random(1, 3, 16, 16).expand(2, -1, -1, -1)
    first, second = corruptions.corrupt(images, kind, 3)
    assert not torch.equal(first, second)
    assert not torch.equal(first, corruptions.corrupt(images, kind, 3, seed=1)[0])


@pytest.mark.parametrize("kind", FIXED)
def test_what_is_not_random_needs_no_seed(kind):
    images = random(1, 3, 16, 16).expand(2, -1, -1, -1)
    first, second = corruptions.corrupt(images, kind, 3)
    assert torch.equal(first, second)
    assert torch.equal(first, corruptions.corrupt(images, kind, 3, seed=1)[0])


@pytest.mark.parametrize("kind", NOISES)
def test_noise_depends_on_the_seed_and_the_severity(kind):
    images = flat(128, 4, 1, 16, 16)
    found = [
        corruptions.corrupt(images, kind, severity, seed).double() - 128
        for severity, seed in ((3, 0), (3, 1), (4, 0))
    ]
    for i, j in ((0, 1), (0, 2)):
        both = torch.stack([found[i].flatten(), found[j].flatten()])
        assert both.corrcoef()[0, 1].abs() < 4 / 1024**0.5  # independent


@each_severity
@pytest.mark.parametrize(
    ("kind", "level"), [("gaussian_noise", 128), ("shot_noise", 64)]
)
def test_noise_has_no_bias_where_nothing_is_cut_off(kind, level, severity):
    images = flat(level, 64, 1, 32, 32)
    change = corruptions.corrupt(images, kind, severity).double() - level
    assert change.mean().abs() < 4 * change.std() / change.numel() ** 0.5


@pytest.mark.parametrize(("kind", "ratio"), [("gaussian_noise", 1), ("shot_noise", 4)])
def test_shot_noise_is_stronger_where_there_is_more_light(kind, ratio):
    """A Poisson count's variance is its mean: it grows as the light does."""
    dark, light = (
        corruptions.corrupt(flat(level, 64, 1, 32, 32), kind, 1).double().var()
        for level in (40, 160)
    )
    error = ratio * (2 * 2 / 65536) ** 0.5  # of a ratio of two variances
    assert light / dark == pytest.approx(ratio, abs=4 * error + 0.01)  # 0.01: rounding


@each_severity
def test_shot_noise_leaves_the_dark_dark(severity):
    images = flat(0, 2, 1, 8, 8)
    assert torch.equal(corruptions.corrupt(images, "shot_noise", severity), images)


def test_impulse_noise_makes_pixels_black_or_white_only():
    images = flat(100, 64, 1, 32, 32)
    found = corruptions.corrupt(images, "impulse_noise", 5)
    assert set(found.unique().tolist()) == {0, 100, 255}
    black, white = ((found == v).double().mean() for v in (0, 255))
    assert (black - white).abs() < 4 * (2 * black / found.numel()) ** 0.5


@pytest.mark.parametrize("kind", [*MOVING, "contrast", "pixelate"])
@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_a_constant_image_has_nothing_to_move_or_to_fade(kind, level):
    images = flat(level, 2, 3, 12, 10)
    assert torch.equal(corruptions.corrupt(images, kind, 5), images)


@each_severity
def test_contrast_moves_pixels_towards_the_images_mean(severity):
    images = random(8, 3, 16, 16).double()
    found = corruptions.corrupt(images.to(torch.uint8), "contrast", severity).double()
    mean = images.mean((2, 3), keepdim=True)
    share = (found - mean).std((1, 2, 3)) / (images - mean).std((1, 2, 3))
    assert (share < 0.95).all()
    assert (share - share.mean()).abs().max() < 0.01  # one factor for all images
    assert (found.mean((2, 3), keepdim=True) - mean).abs().max() < 0.5


@each_severity
def test_brightness_adds_the_same_everywhere(severity):
    change = corruptions.corrupt(flat(100, 2, 3, 8, 8), "brightness", severity) - 100
    assert change.unique().tolist() == [round(25.5 * severity + 1e-9)]


def point(count: int, side: int) -> torch.Tensor:
    """Black but for the pixel in the middle."""
    images = flat(0, count, 1, side, side)
    images[..., side // 2, side // 2] = 255
    return images


def test_defocus_blur_spreads_a_point_evenly():
    images = point(1, 15)
    found = corruptions.corrupt(images, "defocus_blur", 3)
    assert found[..., 7, 7] < 255
    for flipped in (found.flip(2), found.flip(3), found.transpose(2, 3)):
        assert torch.equal(flipped, found)


def test_glass_blur_only_moves_pixels_before_it_blurs(monkeypatch):
    """Each pixel carries its place, so that the shift can be read; none is lost."""
    monkeypatch.setattr(distortions, "defocus_blur", lambda x, *_: x)
    side = 32
    places = torch.arange(side * side).float().view(side, side).expand(32, 3, -1, -1)
    mean = []
    for pixels in (0.3, 0.6, 1.1):
        draw = torch.Generator().manual_seed(0)
        found = distortions.glass_blur(places, pixels, draw)
        assert torch.equal(found.flatten(2).sort().values, places.flatten(2))
        assert torch.equal(found[:, 0], found[:, 2])  # colours move together
        rows = (found - places).div(side).round().abs()
        columns = (found % side - places % side).abs()
        assert rows.max() < 8 * pixels + 2
        assert columns.max() < 8 * pixels + 2
        assert rows.mean() == pytest.approx(float(columns.mean()), rel=0.25)
        mean.append(float(rows.mean()))
    assert 0 < mean[0] < mean[1] < mean[2] < 1.1


def test_glass_blur_moves_pixels_further_in_larger_images(monkeypatch):
    monkeypatch.setattr(distortions, "defocus_blur", lambda x, *_: x)
    found = {}
    for side in (16, 32, 64):
        ramp = torch.arange(side).float().expand(32, 1, side, side)
        draw = torch.Generator().manual_seed(0)
        inner = (distortions.glass_blur(ramp, 1.0, draw) - ramp)[..., 4:-4]
        found[side] = float(inner.square().mean().sqrt())
    assert found[16] == pytest.approx(found[32], rel=0.05)
    assert found[64] == pytest.approx(2 * found[32], rel=0.1)


def covariances(images: torch.Tensor) -> torch.Tensor:
    """(N, 2, 2): how far light has spread, along columns and rows, in pixels^2."""
    weights = images[:, 0].double() / images[:, 0].double().sum((1, 2), keepdim=True)
    place = torch.arange(images.shape[-1]).double() - images.shape[-1] // 2
    xx = (weights * place.square()).sum((1, 2))
    yy = (weights * place.square()[:, None]).sum((1, 2))
    xy = (weights * place * place[:, None]).sum((1, 2))
    return torch.stack([xx, xy, xy, yy], -1).view(-1, 2, 2)


def test_motion_blur_spreads_a_point_along_a_line_of_its_own():
    """Eleven places on a line of length L have variance L^2 / 10; bilinear adds 1/8."""
    found = corruptions.corrupt(point(64, 33), "motion_blur", 5)
    across, along = torch.linalg.eigh(covariances(found))[0].T
    length = 0.28 * 33
    assert (along - length**2 / 10 - 1 / 8).abs().max() < 0.3
    assert across.max() < 0.5
    direction = torch.linalg.eigh(covariances(found))[1][..., 1]
    slope = direction[:, 1] / direction[:, 0]
    assert slope.abs().max() < 1.1  # within 45 degrees of the horizontal
    assert slope.min() < -0.5
    assert slope.max() > 0.5


def test_a_line_longer_than_nine_pixels_has_no_gaps():
    found = distortions._streaked(point(1, 65) / 255, torch.zeros(1), pixels=40.0)
    assert found[0, 0, 32, 13:52].min() > 0.02
    assert found[0, 0, 32].sum() == pytest.approx(1, abs=1e-5)


def test_zoom_blur_leaves_the_centre_sharpest():
    images = random(64, 3, 32, 32)
    change = corruptions.corrupt(images, "zoom_blur", 1).double() - images.double()
    change = change.square().mean((0, 1)).sqrt()
    rings = [change[k:-k, k:-k].mean() for k in (4, 9, 13)]  # ever closer to the centre
    assert change.mean() > rings[0] > rings[1] > rings[2]
    assert change[14:18, 14:18].mean() < change.mean() / 2


def test_zoom_blur_moves_light_outwards():
    images = flat(0, 1, 1, 33, 33)
    images[..., 16, 22] = 255  # six pixels to the right of the centre
    found = corruptions.corrupt(images, "zoom_blur", 5)[0, 0]
    lit = found.nonzero()
    assert set(lit[:, 0].tolist()) <= {15, 16, 17}
    assert lit[:, 1].min() >= 22 - 1
    assert lit[:, 1].max() in (25, 26)  # 16 + 6 * 1.5 = 25


@each_severity
@pytest.mark.parametrize("kind", WHITENING)
def test_weather_and_brightness_lighten_a_dark_image(kind, severity):
    dark = random(32, 1, 24, 24) // 4
    found = corruptions.corrupt(dark, kind, severity)
    assert (found >= dark).all()
    assert (found.double().mean((1, 2, 3)) > dark.double().mean((1, 2, 3)) + 5).all()


@each_severity
def test_fog_is_half_as_thick_at_the_thinnest_place(severity):
    """Over black it is seen as it is."""
    found = corruptions.corrupt(flat(0, 16, 1, 32, 32), "fog", severity).flatten(1)
    thickness = (0.2, 0.35, 0.5, 0.65, 0.8)[severity - 1]
    assert found.amax(1).unique().tolist() == [round(255 * thickness)]
    assert (found.amin(1) - 255 * thickness / 2).abs().max() <= 0.5


def test_fog_lowers_contrast_smoothly():
    images = random(16, 3, 32, 32)
    found = corruptions.corrupt(images, "fog", 4).double()
    assert (found.std((2, 3)) < 0.6 * images.double().std((2, 3))).all()
    fog = corruptions.corrupt(flat(0, 64, 1, 32, 32), "fog", 4).double()
    assert fog.diff(dim=3).square().mean() < 0.1 * fog.var((2, 3)).mean()


def test_snow_falls_in_streaks():
    """Along the fall neighbours are more alike than across it."""
    found = corruptions.corrupt(flat(0, 200, 1, 32, 32), "snow", 3).double()
    down, across = (found.diff(dim=d).square().mean() for d in (2, 3))
    assert down < 0.7 * across
    flakes = (found > found.amin((2, 3), keepdim=True) + 40).double().mean((1, 2, 3))
    assert (flakes > 0).float().mean() > 0.95  # almost every image has some ...
    assert flakes.mean() < 0.3  # ... but most of it has none


def test_snow_has_more_flakes_with_each_severity():
    shares = []
    for severity in SEVERITIES:
        found = corruptions.corrupt(flat(0, 100, 1, 32, 32), "snow", severity).double()
        ground = found.flatten(1).median(1).values.view(-1, 1, 1, 1)
        shares.append(float((found > ground + 40).double().mean()))
    assert shares == sorted(shares)
    assert shares[0] > 0


def test_frost_is_bluish_needles():
    """Neighbours are alike in some direction, which differs from image to image."""
    found = corruptions.corrupt(flat(0, 100, 3, 32, 32), "frost", 3).double()
    red, green, blue = found.mean((0, 2, 3))
    assert red < green < blue
    ice = found[:, 2] - found[:, 2].mean((1, 2), keepdim=True)
    near = [
        (ice[:, 4:-4, 4:-4] * ice.roll((-i, -j), (1, 2))[:, 4:-4, 4:-4]).mean((1, 2))
        for i, j in ((0, 3), (3, 3), (3, 0), (3, -3))
    ]
    near = torch.stack(near) / ice[:, 4:-4, 4:-4].square().mean((1, 2))
    assert near.amax(0).mean() > near.amin(0).mean() + 0.1
    assert near.argmax(0).unique().numel() == 4


def test_elastic_transform_shifts_smoothly():
    """A ramp shows the shift to the right: smooth, of about 5 % of the side."""
    ramp = torch.arange(64).float().expand(64, 1, 64, 64)
    draw = torch.Generator().manual_seed(0)
    shift = (distortions.elastic_transform(ramp, 0.05, draw) - ramp)[
        ..., 12:-12, 12:-12
    ]
    assert 0.5 * 3.2 < shift.std() < 3.2  # knots have all of it, places between less
    assert shift.diff(dim=3).std() < 0.3 * shift.std()
    assert shift.mean((1, 2, 3)).std() < shift.std() / 2  # no shift of the whole


def test_pixelate_gives_means_over_blocks():
    x = random(2, 3, 12, 16).double() / 255
    found = distortions.pixelate(x.float(), 0.5, torch.Generator())
    blocks = F.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(found.double(), blocks, rtol=0, atol=1e-6)


@each_severity
@pytest.mark.parametrize("side", [8, 14, 28, 32, 64])
def test_pixelate_leaves_fewer_rows_and_columns(side, severity):
    found = corruptions.corrupt(random(1, 1, side, side), "pixelate", severity)
    left = round((0.85, 0.72, 0.58, 0.44, 0.33)[severity - 1] * side)
    rows, columns = (len(image.unique(dim=0)) for image in (found[0, 0], found[0, 0].T))
    assert rows == columns == left
    again = corruptions.corrupt(found, "pixelate", severity)
    assert torch.equal(again, found)


def test_jpeg_keeps_what_is_smooth_and_loses_what_is_rough():
    calm, rough = smooth(20, 32, 3), random(20, 3, 32, 32)
    kept = psnr(corruptions.corrupt(calm, "jpeg_compression", 1), calm)
    lost = psnr(corruptions.corrupt(rough, "jpeg_compression", 1), rough)
    assert kept > 30
    assert lost < 20


def test_jpeg_shows_blocks_of_eight_pixels():
    """Strongly compressed, neighbours differ most where two blocks meet."""
    found = corruptions.corrupt(smooth(64, 32, 4), "jpeg_compression", 5).double()
    steps = found.diff(dim=3).square().mean((0, 1, 2))
    borders = torch.zeros(31, dtype=torch.bool).index_fill(
        0, torch.tensor([7, 15, 23]), 1
    )
    assert steps[borders].min() > 1.2 * steps[~borders].mean()


def test_an_unknown_kind_lists_the_known():
    with pytest.raises(
        ValueError, match=r"unknown corruption 'rain': .*gaussian_noise"
    ):
        corruptions.corrupt(random(1, 1, 8, 8), "rain", 1)


@pytest.mark.parametrize("severity", [0, 6, -1, True, 2.0, 2.5, "3", None])
def test_a_severity_that_is_no_whole_number_from_1_to_5_is_named(monkeypatch, severity):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    message = f"runs from 1 to 5, got {severity!r}; write one of 1, 2, 3, 4, 5"
    with pytest.raises(ValueError, match=message):
        corruptions.corrupt(random(1, 1, 8, 8), "contrast", severity)


def test_a_severity_may_come_out_of_a_table(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    images = random(1, 1, 8, 8)
    found = corruptions.corrupt(images, "frost", np.int64(3))
    assert torch.equal(found, corruptions.corrupt(images, "frost", 3))


@pytest.mark.parametrize(
    "images", [torch.rand(1, 1, 8, 8), random(1, 8, 8)], ids=["floats", "no channels"]
)
def test_images_of_another_kind_are_refused(monkeypatch, images):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"images must be uint8 .N, C, H, W., got"):
        corruptions.corrupt(images, "contrast", 1)


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (8, 8, 8, 3), (1, 1, 2, 8)])
def test_images_of_other_channels_or_too_small_are_refused(shape):
    with pytest.raises(
        ValueError,
        match=r"1 or 3 channels and at least 3x3 pixels, got \(\d, \d, \d, \d",
    ):
        corruptions.corrupt(random(*shape), "contrast", 1)
