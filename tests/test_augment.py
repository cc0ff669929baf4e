"""Crops equal cutting out and scaling; boxes have torchvision's distribution."""

import math

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from sbtutor import augment, cycles, data, models, pretrained, transfer
from sbtutor.batches import Batches
from sbtutor.config import ModelConfig, TrainConfig
from sbtutor.recipe import Recipe

EACH = pytest.mark.parametrize("kind", ["resized_crop", "swin"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def floats(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=seeded(), dtype=torch.float64)


def toy(samples: int = 8, channels: int = 1, side: int = 8) -> data.Split:
    shape = (samples, channels, side, side)
    images = torch.randint(256, shape, generator=seeded()).to(torch.uint8)
    return data.Split(images, torch.arange(samples) % 3, ("a", "b", "c"))


def network() -> nn.Module:
    config = ModelConfig(name="small_cnn", width=2)
    return models.build(config, (1, 8, 8), 3, seed=0)


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("size", [1, 5, 16])
def test_a_crop_equals_cutting_out_then_scaling(size):
    """Image by image, with F.interpolate; boxes that shrink, grow and touch edges."""
    boxes = [[0, 0, 9, 7], [2, 1, 1, 1], [8, 6, 1, 1], [3, 0, 6, 2], [1, 2, 5, 5]]
    images = floats(len(boxes), 3, 9, 7)
    mirrored = torch.tensor([False, True, False, True, True])
    found = augment.resized_crop(images, torch.tensor(boxes), mirrored, size)
    for image, (top, left, height, width), flip, ours in zip(
        images, boxes, mirrored, found, strict=True
    ):
        part = image[None, :, top : top + height, left : left + width]
        part = F.interpolate(part, (size, size), mode="bilinear")
        torch.testing.assert_close(ours, (part.flip(-1) if flip else part)[0])


def test_the_whole_image_at_its_own_size_is_itself():
    images = floats(2, 1, 6, 6)
    boxes, never = torch.tensor([[0, 0, 6, 6]] * 2), torch.zeros(2, dtype=torch.bool)
    torch.testing.assert_close(augment.resized_crop(images, boxes, never, 6), images)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (5, 3), (32, 32), (16, 64)])
def test_boxes_lie_inside(shape):
    boxes = augment.random_boxes(500, *shape, seeded())
    corner, sides = boxes[:, :2], boxes[:, 2:]
    assert corner.min() >= 0
    assert sides.min() >= 1
    assert (corner + sides <= torch.tensor(shape)).all()
    assert (
        boxes.unique(dim=0).tolist() == [[0, 0, 1, 1]] or len(boxes.unique(dim=0)) > 3
    )


def test_boxes_have_torchvisions_distribution():
    """Means and mean squares of all four numbers, and of the shape and the area."""
    count, height, width = 3000, 40, 30

    def moments(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        boxes = boxes.double()
        shape = (boxes[:, 3] / boxes[:, 2]).log()
        area = boxes[:, 2] * boxes[:, 3] / (height * width)
        each = torch.cat([boxes, shape[:, None], area[:, None]], 1)
        each = torch.cat([each, each.square(), each[:, :2] * each[:, 2:4]], 1)
        return each.mean(0), each.var(0) / count

    ours, our_error = moments(augment.random_boxes(count, height, width, seeded()))
    reference, image = v2.RandomResizedCrop(8), torch.empty(1, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [reference.make_params([image]) for _ in range(count)]
    drawn = torch.tensor(
        [[p[k] for k in ("top", "left", "height", "width")] for p in drawn]
    )
    theirs, their_error = moments(drawn)
    assert ((ours - theirs).abs() < 4 * (our_error + their_error).sqrt()).all()


def test_where_no_box_fits_the_whole_image_is_taken():
    """Of one row of 40 pixels: a box of 8 % with width : height 4:3 has two rows."""
    boxes = augment.random_boxes(50, 1, 40, seeded())
    assert boxes.tolist() == [[0, 0, 1, 40]] * 50


def test_half_of_the_crops_are_mirrored():
    """On a ramp from left to right, which a crop does not turn round."""
    images = torch.linspace(0, 1, 32).expand(600, 1, 32, 32)
    change = augment.change(Recipe(augment="resized_crop", size=4), 0, 0, 3)
    found, labels = change(images, torch.arange(600))
    falls = (found[:, 0, :, 0] > found[:, 0, :, -1]).all(1)
    rises = (found[:, 0, :, 0] < found[:, 0, :, -1]).all(1)
    assert (falls ^ rises).all()
    assert abs(falls.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(600)
    assert torch.equal(labels, torch.arange(600))


def test_without_augmentation_nothing_changes():
    assert augment.change(Recipe(), 0, 0, 3) is None


@EACH
def test_seed_and_epoch_alone_decide(kind):
    images, labels = floats(6, 3, 8, 8).float(), torch.arange(6)

    def two_batches(seed: int, epoch: int) -> torch.Tensor:
        torch.rand(seed + 1)  # moves the global generator, which must not matter
        before = torch.get_rng_state()
        change = augment.change(Recipe(augment=kind, size=7), seed, epoch, 6)
        pairs = [change(images, labels) for _ in range(2)]
        assert torch.equal(before, torch.get_rng_state())
        assert all(shown.shape == (6, 3, 7, 7) for shown, _ in pairs)
        return torch.stack([shown for shown, _ in pairs])

    first = two_batches(0, 0)
    assert torch.equal(first, two_batches(0, 0))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, two_batches(0, 1))
    assert not torch.equal(first, two_batches(1, 0))


@pytest.fixture
def only_mixing(monkeypatch):
    monkeypatch.setattr(augment, "_bend", lambda image: image)
    monkeypatch.setattr(augment, "_erase", lambda image: image)


def test_mixup_and_cutmix_mix_labels_as_they_mix_images(only_mixing):
    """Image b is b / 8 all over and has a label of its own, so that shares show.

    Mixup: each pixel is the mean by the labels' shares. Cutmix: the labels' shares are
    those of the pixels. Each of the two is the choice in half of the batches.
    """
    values = torch.arange(5) * 51.0 / 255
    images = values[:, None, None, None].expand(5, 3, 6, 6).clone()
    batches, by_mixup = 200, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(batches):
            shown, shares = augment.swin(images, torch.arange(5), 5)
            torch.testing.assert_close(shares.sum(1), torch.ones(5))
            torch.testing.assert_close(shown.mean((1, 2, 3)), shares @ values)
            assert ((shares > 0).sum(1) <= 2).all()
            is_one_value = (shown - shown[:, :, :1, :1]).abs().amax((1, 2, 3)) < 1e-6
            pure = torch.isclose(shown[..., None], values).any(-1).all()
            assert is_one_value.all() or pure
            by_mixup += bool(is_one_value.all() and not pure)
    assert abs(by_mixup - batches / 2) < 4 * math.sqrt(batches) / 2


@pytest.fixture
def not_mixing(monkeypatch):
    def apart(_):
        return lambda images, labels: (images, F.one_hot(labels))

    monkeypatch.setattr(augment.v2, "RandomChoice", apart)


def test_one_image_in_four_is_erased_by_noise_like_images(not_mixing, monkeypatch):
    """Of a white image 2 to 33 % become normal noise, mean 0.45 and deviation 0.225."""
    monkeypatch.setattr(augment, "_bend", lambda image: image)
    images, count = torch.ones(400, 1, 16, 16), 400
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shown, _ = augment.swin(images, torch.zeros(count).long(), 1)
    noisy = (shown - 1).abs() > 1e-5
    share = noisy.double().mean((1, 2, 3))
    is_erased = share > 0
    assert abs(is_erased.double().mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / count)
    assert share[is_erased].min() > 0.01
    assert share[is_erased].max() < 0.36  # sides are rounded
    noise = shown[noisy].double()
    assert abs(noise.mean() - 0.45) < 4 * 0.225 / math.sqrt(len(noise))
    assert abs(noise.std() - 0.225) < 4 * 0.225 / math.sqrt(2 * len(noise))


def test_operations_have_nine_tenths_of_their_strength(not_mixing, monkeypatch):
    """Brightness is multiplied by 1 - 0.9 * 0.9 or 1 + 0.9 * 0.9; 100 is 19 or 181."""
    monkeypatch.setattr(augment, "_erase", lambda image: image)
    images = torch.full((300, 3, 5, 5), 100 / 255)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shown, _ = augment.swin(images, torch.zeros(300).long(), 1)
    found = set((255 * shown[:, 0, 2, 2]).round().int().tolist())
    assert {19, 100, 181} <= found


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@EACH
def test_a_cycle_is_trained_on_the_changed_images(kind, smoothing):
    """The loss of its one batch, by hand: sum_c of -q_c log p_c, smoothed q."""
    config = TrainConfig(epochs=1, batch_size=8, device="cpu", seed=3)
    how = Recipe(augment=kind, size=8, label_smoothing=smoothing)
    split = toy()
    _, rows = cycles.train_cycle(network(), split, config, how)
    one = TrainConfig(epochs=1, batch_size=8, seed=3, members=1)
    (batch,) = Batches(split, one, torch.device("cpu")).epoch(0)
    change = augment.change(how, 3, 0, 3)
    images, targets = change(batch.images[0], batch.labels[0])
    q = F.one_hot(targets, 3) if targets.dim() == 1 else targets
    q = (1 - smoothing) * q + smoothing / 3
    loss = -(q * network().train()(images).log_softmax(1)).sum(1).mean().detach()
    assert rows[0]["loss"] == pytest.approx(float(loss), rel=1e-5)


@EACH
def test_double_precision_and_bfloat16_can_be_trained(kind):
    how = Recipe(augment=kind, size=8)
    for bf16, start in ((True, network()), (False, network().double())):
        config = TrainConfig(epochs=1, batch_size=8, device="cpu", bf16=bf16)
        _, rows = cycles.train_cycle(start, toy(), config, how)
        assert math.isfinite(rows[0]["loss"])


@EACH
def test_a_large_network_is_fine_tuned(kind):
    """A ResNet of torchvision's on 8 colour images, crops of 32 x 32 pixels."""
    body = torchvision.models.resnet18(num_classes=5)
    start = pretrained.for_images(body, size=32)
    config = TrainConfig(epochs=1, batch_size=4, lr=0.01, device="cpu", seed=1)
    how = Recipe(augment=kind, size=32, label_smoothing=0.1, clip_norm=5.0)
    split = toy(channels=3, side=12)
    first, second = (
        transfer.fine_tune([start], split, config, jobs=1, recipe=recipe)[0]
        for recipe in (how, how)
    )
    (plain,) = transfer.fine_tune([start], split, config, jobs=1)
    assert same(first, second)
    assert not same(first, plain)
    assert first(floats(2, 3, 50, 40).float()).shape == (2, 3)


def test_size_makes_no_other_file_unless_something_is_augmented(tmp_path):
    config = TrainConfig(epochs=1, batch_size=8, device="cpu")
    for how, files in (
        (Recipe(), 1),
        (Recipe(size=9), 1),
        (Recipe(augment="resized_crop", size=8), 2),
        (Recipe(augment="resized_crop", size=9), 3),
        (Recipe(augment="swin", size=9), 4),
    ):
        cycles.train([cycles.Task(network(), config, 1, how)], toy(), tmp_path, jobs=1)
        assert len(list(tmp_path.glob("*.pt"))) == files


def test_crops_that_the_network_cannot_read_are_refused(tmp_path):
    """Before anything is trained."""
    mlp = models.build(ModelConfig(name="mlp"), (1, 8, 8), 3, seed=0)
    config, how = TrainConfig(epochs=1), Recipe(augment="resized_crop", size=9)
    message = r"hidden1 cannot read images of shape \(1, 9, 9\).*another Recipe\(size"
    good, bad = cycles.Task(network(), config), cycles.Task(mlp, config, 1, how)
    with pytest.raises(ValueError, match=message):
        cycles.train([good, bad], toy(), tmp_path, jobs=1)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        cycles.train_cycle(mlp, toy(), config, how)


def test_crops_are_not_scaled_twice():
    start = pretrained.for_images(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), 4)
    how = Recipe(augment="resized_crop", size=8)
    message = r"makes images 4x4 itself.* 8x8 would be scaled twice; .*\(size=4\)"
    with pytest.raises(ValueError, match=message):
        cycles.train_cycle(start, toy(channels=3), TrainConfig(epochs=1), how)


@pytest.mark.parametrize("shape", [(20, 20), (9, 30), (31, 16)])
def test_resize_takes_the_centre_of_images_of_any_shape(shape):
    """The shorter side becomes 8/7 of 14 pixels; then the middle, in both modes."""
    images = floats(2, 3, *shape)
    layer = augment.Resize(14)
    scale = 16 / min(shape)
    sides = [int(side * scale) for side in shape]
    large = F.interpolate(images, sides, mode="bilinear", antialias=True)
    top, left = (round((side - 14) / 2) for side in sides)
    expected = large[:, :, top : top + 14, left : left + 14]
    torch.testing.assert_close(layer.eval()(images), expected)
    assert torch.equal(layer.train()(images), layer.eval()(images))
    assert repr(layer) == "Resize(size=14)"


def test_images_of_the_right_size_are_left_alone():
    images = floats(2, 3, 14, 14)
    assert augment.Resize(14)(images) is images
