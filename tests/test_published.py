"""The published corrupted sets: the right rows, the right labels, each fault named."""

import itertools
import shutil

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from sbtutor import published
from sbtutor.corruptions import KINDS

N = 6  # images a severity
CLASSES = ("n01443537", "n01629819", "n01641577")


def pixels(kind: str, rows: int = 5 * N) -> np.ndarray:
    """Random images of 4x3 pixels, other ones for each kind."""
    rng = np.random.default_rng([*kind.encode()])
    return rng.integers(0, 256, (rows, 3, 4, 3), dtype=np.uint8)


@pytest.fixture
def cifar(tmp_path):
    """A small CIFAR-10-C, with one of the extra kinds."""
    for kind in (*KINDS, "saturate"):
        np.save(tmp_path / f"{kind}.npy", pixels(kind))
    np.save(tmp_path / "labels.npy", np.tile(np.uint8([3, 8, 8, 0, 6, 9]), 5))
    return tmp_path


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["gaussian_noise", "frost", "saturate"])
def test_cifar_c_gives_the_rows_of_the_severity(cifar, kind, severity):
    split = published.load_cifar_c(cifar, kind, severity)
    expected = pixels(kind)[(severity - 1) * N : severity * N].transpose(0, 3, 1, 2)
    assert torch.equal(split.images, torch.from_numpy(expected.copy()))
    assert split.images.is_contiguous()
    assert split.labels.tolist() == [3, 8, 8, 0, 6, 9]
    assert split.classes[:4] == ("airplane", "automobile", "bird", "cat")
    assert len(split.classes) == 10


def test_cifar_c_can_be_changed_without_changing_the_file(cifar):
    published.load_cifar_c(str(cifar), "fog", 2).images.zero_()
    assert published.load_cifar_c(cifar, "fog", 2).images.any()


def test_cifar_100_c_has_a_hundred_numbered_classes(cifar):
    np.save(cifar / "labels.npy", np.tile(np.int64([3, 99, 8, 0, 6, 9]), 5))
    split = published.load_cifar_c(cifar, "fog", 5)
    assert split.labels.tolist() == [3, 99, 8, 0, 6, 9]
    assert split.classes == tuple(map(str, range(100)))
    named = [f"class {c}" for c in range(100)]
    assert published.load_cifar_c(cifar, "fog", 5, named).classes == tuple(named)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([3, 100, 8, 0, 6, 9], None, "label 100 is out of range: there are 100 cla"),
        ([3, -1, 8, 0, 6, 9], None, "label -1 is out of range: there are 10 classes"),
        ([3, 2, 1, 0, 1, 2], ["a", "b", "c"], "label 3 is out of range: there are 3 c"),
    ],
)
def test_a_label_without_a_class_is_named(cifar, labels, classes, message):
    np.save(cifar / "labels.npy", np.tile(labels, 5))
    with pytest.raises(ValueError, match=message):
        published.load_cifar_c(cifar, "fog", 1, classes)


def test_all_missing_files_are_named_at_once(cifar):
    for name in ("snow", "pixelate", "labels"):
        (cifar / f"{name}.npy").unlink()
    with pytest.raises(
        ValueError, match=r"lacks snow.npy, pixelate.npy, labels.npy; fetch the publis"
    ):
        published.load_cifar_c(cifar, "fog", 1)


@pytest.mark.parametrize("kind", ["rain", "spatter", "labels", "../fog"])
def test_an_unknown_kind_lists_those_that_are_there(cifar, kind):
    with pytest.raises(
        ValueError,
        match=f"unknown corruption '{kind}': choose one of gaussian.*, saturate$",
    ):
        published.load_cifar_c(cifar, kind, 1)


def test_a_misspelt_kind_is_named_before_missing_files(cifar):
    (cifar / "snow.npy").unlink()
    with pytest.raises(ValueError, match="unknown corruption 'Snow': choose one of"):
        published.load_cifar_c(cifar, "Snow", 1)
    with pytest.raises(ValueError, match=r"lacks snow.npy; fetch"):
        published.load_cifar_c(cifar, "snow", 1)


@pytest.mark.parametrize("severity", [0, 6, True, 2.0, "3"])
@pytest.mark.parametrize("load", ["load_cifar_c", "load_tiny_imagenet_c"])
def test_a_severity_outside_1_to_5_is_named(tmp_path, monkeypatch, load, severity):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=f"runs from 1 to 5, got {severity!r}"):
        getattr(published, load)(tmp_path, "fog", severity, CLASSES)


@pytest.mark.parametrize("load", ["load_cifar_c", "load_tiny_imagenet_c"])
def test_a_missing_folder_is_named(tmp_path, load):
    with pytest.raises(ValueError, match=r"away is no folder; fetch the published set"):
        getattr(published, load)(tmp_path / "away", "fog", 1, CLASSES)


@pytest.mark.parametrize(
    "wrong",
    [
        pixels("fog", rows=5 * N - 5),
        pixels("fog").astype(np.float32),
        pixels("fog")[..., 0],
        pixels("fog").transpose(0, 3, 1, 2),
    ],
    ids=["rows", "floats", "grey", "channels first"],
)
def test_images_that_do_not_fit_are_named(cifar, wrong):
    np.save(cifar / "fog.npy", wrong)
    with pytest.raises(
        ValueError,
        match=r"fog.npy must be uint8 \(30, H, W, 3\), .*, got \w+ \(\d+, \d+, .*; fe",
    ):
        published.load_cifar_c(cifar, "fog", 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(30), r"one row of whole numbers, got float64 \(30,\); fetch"),
        (np.zeros((30, 1), int), r"one row of whole numbers, got int64 \(30, 1\)"),
        (np.zeros(29, int), "has 29 labels, not the same number for each of five"),
        (np.zeros(0, int), "has 0 labels, not the same number"),
        (np.arange(30) % 10, "has other labels at other severities"),
    ],
)
def test_labels_that_do_not_fit_are_named(cifar, labels, message):
    np.save(cifar / "labels.npy", labels)
    with pytest.raises(ValueError, match=f"labels.npy .*{message}"):
        published.load_cifar_c(cifar, "fog", 1)


@pytest.mark.parametrize("name", ["fog", "labels"])
@pytest.mark.parametrize("fault", ["cut short", "no numpy file", "empty", "objects"])
def test_a_damaged_file_is_named(cifar, name, fault):
    path = cifar / f"{name}.npy"
    if fault == "objects":  # a pickle, which could run anything
        np.save(path, np.array([print] * 30, dtype=object), allow_pickle=True)
    else:
        content = {"cut short": path.read_bytes()[:-1], "no numpy file": b"<html>" * 9}
        path.write_bytes(content.get(fault, b""))
    with pytest.raises(
        ValueError, match=rf"{name}.npy is cut short or no .npy file \(.*\); fetch it"
    ):
        published.load_cifar_c(cifar, "fog", 1)


def save(path, number: int, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> None:
    """A JPEG file of one colour, so that it comes back as it went."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = number if mode == "L" else (number,) * 3
    Image.new(mode, size, colour).save(path, "JPEG", quality=100)


@pytest.fixture
def tiny(tmp_path):
    """A small TinyImageNet-C: four pictures a class, told apart by their grey."""
    for (k, kind), level in itertools.product(enumerate(KINDS), range(1, 6)):
        for c, i in itertools.product(range(3), (7, 9, 6, 8)):
            path = tmp_path / kind / str(level) / CLASSES[c] / f"val_{i}.JPEG"
            save(path, 10 * k + 2 * level + 20 * c + i)
    return tmp_path


def test_tiny_imagenet_c_reads_class_by_class(tiny):
    split = published.load_tiny_imagenet_c(tiny, KINDS[4], 3, CLASSES)
    assert split.images.shape == (12, 3, 5, 6)
    assert split.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert split.classes == CLASSES
    grey = [46 + 20 * c + i for c in range(3) for i in (6, 7, 8, 9)]  # by file name
    assert split.images.flatten(1).unique(dim=1)[:, 0].tolist() == grey


def test_tiny_imagenet_c_takes_the_clean_sets_order_of_classes(tiny):
    split = published.load_tiny_imagenet_c(str(tiny), KINDS[0], 1, CLASSES[::-1])
    assert split.classes == CLASSES[::-1]
    assert split.images[::4, 0, 0, 0].tolist() == [48, 28, 8]


def test_a_grey_picture_and_other_files_do_not_disturb(tiny):
    folder = tiny / "fog" / "1" / CLASSES[1]
    (folder / "notes.txt").write_text("not an image")
    (folder / "._val_8.JPEG").write_bytes(b"left by another system")
    save(folder / "val_9.JPEG", 200, mode="L")
    split = published.load_tiny_imagenet_c(tiny, "fog", 1, CLASSES)
    assert split.images[7].unique().tolist() == [200]
    assert len(split.images) == 12


def test_an_extra_kind_may_be_there(tiny):
    shutil.copytree(tiny / "fog", tiny / "spatter")
    split = published.load_tiny_imagenet_c(tiny, "spatter", 2, CLASSES)
    fog = published.load_tiny_imagenet_c(tiny, "fog", 2, CLASSES)
    assert torch.equal(split.images, fog.images)


def test_an_unknown_kind_of_tiny_imagenet_c_lists_those_that_are_there(tiny):
    with pytest.raises(
        ValueError,
        match=r"unknown corruption 'rain': choose one of .*, jpeg_compression$",
    ):
        published.load_tiny_imagenet_c(tiny, "rain", 1, CLASSES)


def test_all_missing_kinds_and_severities_are_named_at_once(tiny):
    shutil.rmtree(tiny / "snow")
    shutil.rmtree(tiny / "fog" / "4")
    missing = ", ".join([*(f"snow/{level}" for level in range(1, 6)), "fog/4"])
    with pytest.raises(ValueError, match=f"lacks {missing}; fetch the published set"):
        published.load_tiny_imagenet_c(tiny, "frost", 1, CLASSES)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (CLASSES[:2], r"folders that are no class of the clean set: n01641577; its 3 "),
        ((*CLASSES, "n9"), "lacks n9; its 3 folders must be the 4 classes given"),
        (tuple(f"m{c}" for c in range(9)), r"lacks m0, m1, m2, m3, m4, \.\.\.; its 3"),
    ],
)
def test_classes_other_than_the_clean_sets_are_named(tiny, classes, message):
    with pytest.raises(ValueError, match=message):
        published.load_tiny_imagenet_c(tiny, "fog", 1, classes)


def test_a_class_without_images_is_named(tiny):
    for path in (tiny / "fog" / "1" / CLASSES[1]).iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="n01629819 has no images; unpack the set aga"):
        published.load_tiny_imagenet_c(tiny, "fog", 1, CLASSES)


def test_images_of_two_sizes_are_named(tiny):
    save(tiny / "fog" / "1" / CLASSES[1] / "val_5.JPEG", 0, size=(7, 5))
    with pytest.raises(
        ValueError, match="images of 6x5 and 7x5 pixels; all need one size"
    ):
        published.load_tiny_imagenet_c(tiny, "fog", 1, CLASSES)


def test_an_unreadable_image_is_named(tiny):
    path = tiny / "fog" / "1" / CLASSES[1] / "val_8.JPEG"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"val_8.JPEG is not a readable image"):
        published.load_tiny_imagenet_c(tiny, "fog", 1, CLASSES)
