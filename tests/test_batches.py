"""An epoch's batches: each sample once, each move as a slow reference makes it."""

import pytest
import torch
from torch.nn import functional as F

from sbtutor import data
from sbtutor.batches import Batches, augmented, stream
from sbtutor.config import TrainConfig

CPU = torch.device("cpu")


def split(samples=53, channels=3, height=6, width=4):
    """No two pixels of an image alike, as far as 256 values go."""
    shape = (samples, channels, height, width)
    images = torch.randint(0, 256, shape, generator=stream("pixels"))
    labels = torch.arange(samples) % 5
    return data.Split(images.to(torch.uint8), labels, tuple("abcde"))


def batches(source, **settings):
    settings = {"members": 3, "batch_size": 10, "milestones": (), **settings}
    return Batches(source, TrainConfig(**settings), CPU)


def gathered(epoch):
    """A whole epoch at once: index (M, N), images (M, N, C, H, W), labels (M, N)."""
    parts = list(epoch)
    return tuple(
        torch.cat([getattr(b, name) for b in parts], dim=1)
        for name in ("index", "images", "labels")
    )


@pytest.mark.parametrize("settings", [{}, {"crop": 2, "flip": True}])
def test_each_member_sees_each_sample_once_with_its_label(settings):
    source = split()
    index, _, labels = gathered(batches(source, **settings).epoch(4))
    for m in range(3):
        assert index[m].sort().values.tolist() == list(range(53))
    assert torch.equal(labels, source.labels[index])


def test_without_augmentation_images_are_the_splits_in_zero_to_one():
    source = split()
    index, images, _ = gathered(batches(source).epoch(0))
    assert torch.equal(images, source.images[index].float() / 255)


@pytest.mark.parametrize(("crop", "flip"), [(2, True), (3, False), (0, True)])
def test_crops_and_flips_are_those_of_a_slow_reference(crop, flip):
    """Pad with zeros, cut out, flip: sample by sample. Members draw apart."""
    source = split()
    ours = batches(source, crop=crop, flip=flip, seed=7)
    index, images, _ = gathered(ours.epoch(2))
    for m in range(3):
        moves = ours._moves(7 + m, 2)
        for place, (down, right, flipped) in enumerate(moves.tolist()):
            image = F.pad(source.images[index[m, place]], (crop,) * 4)
            image = image[:, down : down + 6, right : right + 4]
            image = image.flip(-1) if flip and flipped else image
            assert torch.equal(images[m, place], image.float() / 255)


def test_all_moves_are_equally_likely():
    """(2c + 1)^2 places and two sides, each within 4.5 standard errors."""
    moves = batches(split(20_000, 1, 1, 1), crop=2, flip=True)._moves(0, 0)
    counts = torch.bincount(moves @ torch.tensor([10, 2, 1]), minlength=50)
    p = 1 / 50
    error = (20_000 * p * (1 - p)) ** 0.5
    assert len(counts) == 50
    assert ((counts - 20_000 * p).abs() < 4.5 * error).all()


def test_members_and_epochs_have_orders_of_their_own():
    ours = batches(split())
    orders = [gathered(ours.epoch(e))[0][m].tolist() for e in (0, 1) for m in range(3)]
    assert len({tuple(o) for o in orders}) == 6
    assert orders[0] == gathered(ours.epoch(0))[0][0].tolist()


def test_member_m_of_seed_s_sees_what_member_0_of_seed_s_plus_m_sees():
    settings = {"crop": 2, "flip": True}
    many = gathered(batches(split(), seed=5, **settings).epoch(1))
    for m in range(3):
        alone = batches(split(), seed=5 + m, members=1, **settings)
        for a, b in zip(many, gathered(alone.epoch(1)), strict=True):
            assert torch.equal(a[m], b[0])


@pytest.mark.parametrize(
    ("samples", "batch_size"), [(53, 10), (50, 10), (51, 50), (9, 10), (101, 100)]
)
def test_batch_sizes_differ_by_at_most_one_and_respect_the_limit(samples, batch_size):
    ours = batches(split(samples), batch_size=batch_size)
    sizes = [b.index.shape[1] for b in ours.epoch(0)]
    assert sum(sizes) == samples
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size
    assert len(sizes) == -(-samples // batch_size)


def test_a_members_convolution_input_has_its_channels_last():
    """What convolutions on a CPU are fastest with (performance.md)."""
    batch = next(batches(split(), crop=1).epoch(0))
    assert batch.images[1].is_contiguous(memory_format=torch.channels_last)


def test_streams_depend_on_the_whole_key_and_on_nothing_else():
    keys = [(0, 1, "order"), (1, 0, "order"), (0, 1, "augment"), (1, "order"), (10,)]
    draws = [torch.rand(3, generator=stream(*key)).tolist() for key in keys]
    assert len({tuple(d) for d in draws}) == len(keys)
    before = torch.random.get_rng_state()
    assert torch.rand(3, generator=stream(*keys[0])).tolist() == draws[0]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_augmented_images_are_those_that_training_sees():
    """Two copies are the first two epochs of the member with that seed."""
    config = TrainConfig(members=1, batch_size=10, crop=2, flip=True, seed=3)
    made = augmented(split(), config, copies=2)
    seen = [gathered(Batches(split(), config, CPU).epoch(e)) for e in (0, 1)]
    images, labels = (torch.cat([each[i][0] for each in seen]) for i in (1, 2))
    assert torch.equal(data.to_float(made.images), images)
    assert torch.equal(made.labels, labels)
    assert made.classes == split().classes


def test_without_crops_and_flips_augmented_images_are_the_images():
    made = augmented(split(), TrainConfig(members=3))
    order = gathered(batches(split(), members=1).epoch(0))[0][0]
    assert torch.equal(made.images, split().images[order])


def test_augmented_needs_a_copy():
    with pytest.raises(ValueError, match="copies must be at least 1, got 0"):
        augmented(split(), TrainConfig(), copies=0)
