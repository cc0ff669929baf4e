"""Data sets as tensors: counts, balance, order, resizing, and what goes wrong."""

import gzip
import hashlib
import importlib.resources
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from sbtutor import data
from sbtutor.config import DataConfig

ASSETS = Path(data.__file__).parent / "assets"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
needs_debian = pytest.mark.skipif(
    not DEBIAN.is_dir(), reason=f"no {DEBIAN}: Debian's package dataset-fashion-mnist"
)


@pytest.fixture
def offline(monkeypatch):
    """Any try to reach the network fails at once."""

    def refuse(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(socket, "socket", refuse)
    for module in ("cifar", "mnist"):
        name = f"torchvision.datasets.{module}.download_and_extract_archive"
        monkeypatch.setattr(name, refuse)


@pytest.fixture(autouse=True)
def no_user_data(monkeypatch, tmp_path):
    """The tests see no data of the user's."""
    monkeypatch.setenv("SBTUTOR_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(data, "LOCAL_FASHION_MNIST", tmp_path / "nowhere")


def numbered(labels, classes: int = 3) -> data.Split:
    """Image i has the value i in its one pixel, so that it can be recognised."""
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None]
    names = tuple(f"class {c}" for c in range(classes))
    return data.Split(images, torch.as_tensor(labels), names)


def numbers(split: data.Split) -> list[int]:
    return split.images.flatten().tolist()


def keys(split: data.Split) -> set[bytes]:
    return {hashlib.sha256(image.numpy().tobytes()).digest() for image in split.images}


def assert_same(one: data.Splits, other: data.Splits) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


def is_sorted(labels: torch.Tensor) -> bool:
    return bool((labels.diff() >= 0).all())


@pytest.mark.usefixtures("offline")
def test_fashion_mini_is_balanced_shuffled_and_needs_no_network():
    splits = data.load(DataConfig(name="fashion-mini"))
    for split, each in zip(splits, (500, 100, 400), strict=True):
        assert split.images.shape == (10 * each, 1, 28, 28)
        assert split.images.dtype == torch.uint8
        assert split.labels.bincount().tolist() == [each] * 10
        assert not is_sorted(split.labels)
        # In a random order the first 50 images show at least five classes.
        assert len(split.labels[:50].unique()) >= 5
    assert splits.train.classes[0] == "T-shirt/top"
    assert splits.train.classes[9] == "Ankle boot"


def test_no_image_of_fashion_mini_is_there_twice():
    splits = data.load(DataConfig(name="fashion-mini"))
    found = [keys(split) for split in splits]
    assert [len(k) for k in found] == [5000, 1000, 4000]
    assert len(set.union(*found)) == 10_000


def test_the_asset_fits_its_checksum_and_carries_its_licence():
    digest, name = (ASSETS / "fashion-mini.sha256").read_text().split()
    content = (ASSETS / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest
    assert len(content) < 5_000_000
    licence = (ASSETS / "fashion-mini.LICENSE").read_text()
    assert "Copyright (c) 2017 Zalando SE" in licence
    assert "Permission is hereby granted, free of charge" in licence


@needs_debian
def test_the_script_makes_the_asset_again(tmp_path):
    shutil.copy(ASSETS / "make_fashion_mini.py", tmp_path)
    script = tmp_path / "make_fashion_mini.py"
    subprocess.run([sys.executable, script, DEBIAN], check=True, timeout=60)
    with (
        np.load(tmp_path / "fashion-mini.npz") as made,
        np.load(ASSETS / "fashion-mini.npz") as shipped,
    ):
        assert set(made) == set(shipped)
        for name in shipped:
            np.testing.assert_array_equal(made[name], shipped[name])


@needs_debian
def test_fashion_mini_is_drawn_from_the_published_splits(monkeypatch):
    monkeypatch.setattr(data, "LOCAL_FASHION_MNIST", DEBIAN)
    full = data.load(DataConfig(name="fashion-mnist"))
    assert [len(split.labels) for split in full] == [54_000, 6_000, 10_000]
    for split, each in zip(full, (5400, 600, 1000), strict=True):
        assert split.labels.bincount().tolist() == [each] * 10
        assert not is_sorted(split.labels)
    mini = data.load(DataConfig(name="fashion-mini"))
    assert keys(mini.test) <= keys(full.test)
    assert keys(mini.train) | keys(mini.val) <= keys(full.train) | keys(full.val)


def test_an_altered_asset_is_refused(monkeypatch, tmp_path):
    shutil.copytree(ASSETS, tmp_path / "assets")
    asset = tmp_path / "assets" / "fashion-mini.npz"
    content = bytearray(asset.read_bytes())
    content[len(content) // 2] ^= 1
    asset.write_bytes(content)
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=r"fashion-mini.npz was altered .* reinstall"):
        data.load(DataConfig(name="fashion-mini"))


def test_digits_are_the_1797_of_scikit_learn():
    from sklearn.datasets import load_digits

    splits = data.load(DataConfig(name="digits"))
    assert [len(split.labels) for split in splits] == [1097, 200, 500]
    assert splits.val.labels.bincount().tolist() == [20] * 10
    assert splits.test.labels.bincount().tolist() == [50] * 10
    ours = torch.cat([split.images for split in splits]).flatten(1).double()
    labels = torch.cat([split.labels for split in splits])
    bunch = load_digits()
    theirs = torch.from_numpy(bunch.data) * 255 / 16
    counts = torch.from_numpy(bunch.target).bincount()
    assert torch.equal(labels.bincount(), counts)
    # The same images in another order: sorted by a random projection they match.
    weights = torch.rand(64, generator=torch.Generator().manual_seed(0)).double()
    ours, theirs = ours[(ours @ weights).argsort()], theirs.round()
    theirs = theirs[(theirs @ weights).argsort()]
    assert_close(ours, theirs, rtol=0, atol=1)  # 127.5 may round either way
    assert ours.max() == 255


def test_equal_configs_give_equal_splits_and_other_seeds_others():
    first = data.load(DataConfig(name="digits", limit=100))
    assert_same(first, data.load(DataConfig(name="digits", limit=100)))
    other = data.load(DataConfig(name="digits", limit=100, seed=1))
    for a, b in zip(first, other, strict=True):
        assert a.images.shape == b.images.shape
        assert not torch.equal(a.images, b.images)


def test_limit_keeps_a_balanced_part_of_train_only():
    whole = data.load(DataConfig(name="fashion-mini"))
    some = data.load(DataConfig(name="fashion-mini", limit=203))
    counts = some.train.labels.bincount()
    assert counts.sum() == 203
    assert counts.min() == 20
    assert counts.max() == 21
    assert len(keys(some.train)) == 203
    assert keys(some.train) <= keys(whole.train)
    assert torch.equal(some.val.images, whole.val.images)
    assert torch.equal(some.test.images, whole.test.images)
    assert not is_sorted(some.train.labels)


def test_a_limit_above_the_number_of_images_is_named():
    with pytest.raises(ValueError, match="cannot take 5001 of 5000 images"):
        data.load(DataConfig(name="fashion-mini", limit=5001))


@pytest.mark.parametrize("size", [14, 7])
def test_smaller_images_are_means_of_blocks(size):
    whole = data.load(DataConfig(name="fashion-mini"))
    small = data.load(DataConfig(name="fashion-mini", size=size))
    for before, after in zip(whole, small, strict=True):
        assert after.images.shape == (len(before.labels), 1, size, size)
        blocks = before.images.double().unflatten(3, (size, -1))
        means = blocks.unflatten(2, (size, -1)).mean((3, 5))
        assert (after.images.double() - means).abs().max() <= 0.5
        assert torch.equal(after.labels, before.labels)


def test_a_size_equal_to_the_images_own_changes_nothing():
    whole = data.load(DataConfig(name="digits"))
    assert_same(whole, data.load(DataConfig(name="digits", size=8)))


def test_larger_images_are_interpolated_linearly(monkeypatch):
    """A ramp 0, 80 along x becomes 0, 20, 60, 80: pixels' centres are at 1/2, 3/2."""
    ramp = torch.tensor([[0, 80], [0, 80]], dtype=torch.uint8).expand(4, 1, 2, 2)
    split = data.Split(ramp, torch.zeros(4, dtype=torch.long), ("ramp",))
    monkeypatch.setitem(
        data.BUILT_IN, "digits", lambda config: data.Splits(split, split, split)
    )
    larger = data.load(DataConfig(name="digits", size=4)).test.images
    expected = torch.tensor([0, 20, 60, 80], dtype=torch.uint8)
    assert torch.equal(larger, expected.expand(4, 1, 4, 4))


def test_a_subset_is_as_balanced_as_can_be():
    """Of 2, 5 and 20 images, 15 are 2 + 5 + 8: small classes give all they have."""
    split = numbered([0] * 2 + [1] * 5 + [2] * 20)
    assert data.subset(split, 15, seed=0).labels.bincount().tolist() == [2, 5, 8]
    assert data.subset(split, 6, seed=0).labels.bincount().tolist() == [2, 2, 2]
    assert sorted(data.subset(split, 7, seed=0).labels.bincount().tolist()) == [2, 2, 3]


def test_a_subset_keeps_images_with_their_labels():
    labels = torch.arange(60) % 3
    part = data.subset(numbered(labels), 30, seed=0)
    assert len(set(numbers(part))) == 30
    assert torch.equal(part.labels, labels[part.images.flatten().long()])
    assert part.classes == ("class 0", "class 1", "class 2")
    everything = data.subset(numbered(labels), 60, seed=0)
    assert sorted(numbers(everything)) == list(range(60))
    assert numbers(everything) != list(range(60))  # shuffled


def test_a_subset_is_random_but_for_its_seed():
    split = numbered([0] * 40 + [1] * 40 + [2] * 40)
    before = torch.random.get_rng_state()
    first, again = (numbers(data.subset(split, 30, seed=4)) for _ in range(2))
    assert first == again
    assert set(first) != set(numbers(data.subset(split, 30, seed=5)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_image_is_as_likely_in_a_subset():
    """Each of 20 images of a class is drawn with probability 1/4, as are leftovers."""
    split = numbered([0] * 20 + [1] * 20 + [2] * 20)
    draws = 400
    counts = torch.zeros(60)
    for seed in range(draws):
        counts[numbers(data.subset(split, 16, seed=seed))] += 1
    share = 16 / 60
    deviation = (draws * share * (1 - share)) ** 0.5
    assert (counts - draws * share).abs().max() < 4.5 * deviation


@pytest.mark.parametrize("count", [0, -1, 7])
def test_a_subset_of_a_wrong_size_is_named(count):
    message = f"cannot take {count} of 6 images; write a number from 1 to 6"
    with pytest.raises(ValueError, match=message):
        data.subset(numbered([0, 0, 1, 1, 2, 2]), count, seed=0)


def only_by_hand(split, names):
    """(number of the image, new label), image by image."""
    found = []
    for image, label in zip(split.images, split.labels):
        name = split.classes[int(label)]
        if name in names:
            found.append((int(image), list(names).index(name)))
    return found


@pytest.mark.parametrize(
    "names",
    [
        ("class 0", "class 1"),
        ["class 4", "class 0", "class 2"],
        ["class 3", "class 1"],  # class 3 has no image
        [f"class {c}" for c in (3, 1, 0, 4, 2)],
    ],
)
def test_only_some_classes_are_numbered_anew_in_the_order_given(names):
    split = numbered([4, 0, 2, 2, 1, 0, 4, 1, 2, 0], classes=5)
    labels, images = split.labels.clone(), split.images.clone()
    found = data.only(split, names)
    expected = only_by_hand(split, names)
    assert [*zip(numbers(found), found.labels.tolist())] == expected
    assert found.classes == tuple(names)
    assert torch.equal(split.labels, labels)
    assert torch.equal(split.images, images)


def test_all_classes_in_their_order_are_the_split():
    split = data.load(DataConfig(name="digits", limit=50)).train
    found = data.only(split, split.classes)
    assert torch.equal(found.images, split.images)
    assert torch.equal(found.labels, split.labels)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["class 1"], r"name two classes or more, each once, got \['class 1'\]"),
        ([], r"name two classes or more, each once, got \[\]"),
        (["class 1", "class 0", "class 1"], "each once, got .*'class 0', 'class 1'"),
        (
            ["class 1", "klass 2"],
            "no class 'klass 2'; the classes are class 0, class 1, class 2",
        ),
    ],
)
def test_classes_that_cannot_be_chosen_are_named(names, message):
    with pytest.raises(ValueError, match=message):
        data.only(numbered([0, 1, 2, 1]), names)


def test_to_float_maps_bytes_to_the_unit_interval():
    pixels = torch.arange(256, dtype=torch.uint8)
    expected = torch.arange(256).double() / 255
    assert_close(data.to_float(pixels).double(), expected, rtol=0, atol=1e-7)
    assert data.to_float(pixels).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_to_float_leaves_floats_alone(dtype):
    pixels = torch.tensor([-1.0, 300.0], dtype=dtype)
    assert data.to_float(pixels) is pixels


def test_channel_statistics_of_known_images():
    """Half 0 and half 255 in channel 0; 51 everywhere in channel 1."""
    images = torch.empty(8, 2, 4, 4, dtype=torch.uint8)
    images[:4, 0], images[4:, 0], images[:, 1] = 0, 255, 51
    mean, std = data.channel_statistics(images)
    assert_close(mean, torch.tensor([0.5, 0.2]))
    assert_close(std[0], torch.tensor(0.5), rtol=0.01, atol=0)  # 1/N or 1/(N - 1)
    assert std[1] > 0  # a constant channel can be divided by it
    assert torch.isfinite((data.to_float(images) - mean[:, None, None]) / std[1]).all()


def test_channel_statistics_equal_numpys():
    train = data.load(DataConfig(name="fashion-mini", size=14)).train
    mean, std = data.channel_statistics(train.images)
    pixels = train.images.numpy().astype(np.float64) / 255
    assert_close(mean.double().item(), pixels.mean(), rtol=1e-6, atol=0)
    assert_close(std.double().item(), pixels.std(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_out_of_range_is_named(label):
    with pytest.raises(ValueError, match=rf"label {label}\b.*\b3 classes"):
        numbered([0, 1, label])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)],
    ids=["floats", "no channels"],
)
def test_images_of_another_kind_are_refused(images):
    message = r"images must be uint8 \(N, C, H, W\), got torch"
    with pytest.raises(ValueError, match=message):
        data.Split(images, torch.zeros(2, dtype=torch.long), ("a",))


@pytest.mark.usefixtures("unchecked")
def test_images_and_labels_must_be_as_many():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="2 images need as many labels"):
        data.Split(images, torch.zeros(3, dtype=torch.long), ("a",))


@pytest.mark.usefixtures("unchecked")
def test_labels_must_be_int64():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="labels must be int64"):
        data.Split(images, torch.zeros(2), ("a",))


def test_an_unknown_name_lists_the_known_and_the_nearest():
    message = (
        r"unknown data set 'fashion-mnits': did you mean 'fashion-mnist'\? .*"
        r"fashion-mini, digits, fashion-mnist, cifar10, cifar100, tiny-imagenet"
    )
    with pytest.raises(ValueError, match=message):
        data.load(DataConfig(name="fashion-mnits"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist"])
def test_a_set_that_is_nowhere_is_explained_in_one_line(name, tmp_path):
    with pytest.raises(ValueError, match=f"^{name} is not in ") as caught:
        data.load(DataConfig(name=name, root=tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) in message
    assert f"python -m sbtutor.data import ARCHIVE --name {name}" in message
    if name == "fashion-mnist":
        assert str(data.LOCAL_FASHION_MNIST) in message


def test_tiny_imagenet_is_never_downloaded(tmp_path):
    message = r"tiny-imagenet is not in .*tiny-imagenet-200\.zip.*--name tiny-imagenet"
    with pytest.raises(ValueError, match=message):
        data.load(DataConfig(name="tiny-imagenet", root=tmp_path))


def write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(head + array.tobytes()))


@pytest.fixture
def idx_folder(monkeypatch, tmp_path):
    """Fashion-MNIST's four files with 100 and 20 images; image i is all i."""
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for prefix, count in (("train", 100), ("t10k", 20)):
        number = np.arange(count, dtype=np.uint8)
        images = np.broadcast_to(number[:, None, None], (count, 28, 28))
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", number % 10)
    monkeypatch.setattr(data, "LOCAL_FASHION_MNIST", folder)
    return folder


@pytest.mark.usefixtures("offline")
def test_fashion_mnist_is_read_where_debian_puts_it(idx_folder):
    splits = data.load(DataConfig(name="fashion-mnist"))
    assert [len(split.labels) for split in splits] == [90, 10, 20]
    for split in splits:
        number = split.images[:, 0, 0, 0]
        assert torch.equal(split.labels, number.long() % 10)
        assert (split.images == number[:, None, None, None]).all()
    assert splits.val.labels.bincount().tolist() == [1] * 10
    together = torch.cat([splits.train.images, splits.val.images])[:, 0, 0, 0]
    assert sorted(together.tolist()) == list(range(100))
    assert_same(splits, data.load(DataConfig(name="fashion-mnist")))
    other = data.load(DataConfig(name="fashion-mnist", seed=1))
    assert keys(splits.val) != keys(other.val)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_idx_file_is_named(idx_folder, kept):
    path = idx_folder / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz.*damaged"):
        data.load(DataConfig(name="fashion-mnist"))


@pytest.mark.usefixtures("offline")
def test_cifar10_is_read_from_torchvisions_files_without_a_download(
    monkeypatch, tmp_path
):
    """torchvision stores a row of 1,024 reds, greens and blues per image."""
    monkeypatch.setattr(
        "torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True
    )
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.zeros((20, 3, 32, 32), np.uint8)
    pixels[:, 2, 5, 7] = 255  # blue, row 5, column 7
    labels = [i % 10 for i in range(20)]
    batch = pickle.dumps({"data": pixels.reshape(20, 3072), "labels": labels})
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(batch)
    names = [f"name {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    splits = data.load(DataConfig(name="cifar10", root=tmp_path))
    assert [len(split.labels) for split in splits] == [90, 10, 20]
    assert splits.val.labels.bincount().tolist() == [1] * 10
    assert splits.test.classes == tuple(names)
    for split in splits:
        assert torch.equal(split.images[0], torch.from_numpy(pixels[0]))


def test_a_class_that_validation_would_take_whole_is_named(tmp_path):
    for part in ("train", "test"):
        for name, count in (("ant", 19), ("bee", 1)):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.full((4, 4), i, np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    data.import_images(tmp_path / "images", "mine", tmp_path)
    with pytest.raises(ValueError, match="class 'bee' has too few images"):
        data.load(DataConfig(name="mine", root=tmp_path))
