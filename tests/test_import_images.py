"""Importing image folders and archives: what is read, what is refused, what stays."""

import errno
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sbtutor import archives, cache, data, files
from sbtutor.config import DataConfig

ROOT = Path(__file__).parents[1]
JPEG = Path(
    os.environ.get("SBTUTOR_CIFAR10_JPEG", ROOT / "../shared/data/cifar10-jpeg.tar.xz")
)
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
PACKED = {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}


@pytest.fixture
def root(tmp_path):
    """Where imported sets go; after each test no half-finished file is left there."""
    folder = tmp_path / "root"
    yield folder
    left = (
        [p.name for p in folder.iterdir() if p.name[0] == "."]
        if folder.exists()
        else []
    )
    assert not left


def picture(number: int, mode: str = "RGB", size: tuple[int, int] = (6, 5)):
    """Random pixels that depend on the number; width 6, height 5."""
    rng = np.random.default_rng(number)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def save(path: Path, number: int, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number, **options).save(path)


def tree(folder: Path, splits=("train", "test"), each: int = 10, **options) -> Path:
    """Classes ant, bee and cat, `each` pictures a class and split, in PNG."""
    numbers = itertools.count()
    for split, name, i in itertools.product(splits, ("ant", "bee", "cat"), range(each)):
        save(folder / split / name / f"{i:03}.png", next(numbers), **options)
    return folder


def members(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def pack(folder: Path, suffix: str, top: str = "") -> Path:
    """An archive of a folder's files, below one folder `top` if that is given."""
    archive = folder.with_name(f"{folder.name}-packed{suffix}")
    names = {
        path: str(Path(top) / path.relative_to(folder)) for path in members(folder)
    }
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path, name in names.items():
                file.write(path, name)
    else:
        with tarfile.open(archive, PACKED[Path(suffix).suffix or suffix]) as file:
            for path, name in names.items():
                file.add(path, name)
    return archive


def load(root: Path, name: str = "mine") -> data.Splits:
    return data.load(DataConfig(name=name, root=root))


def seen(*splits: data.Split) -> dict[bytes, str]:
    """Pixels to class, of all images."""
    return {
        image.numpy().tobytes(): split.classes[label]
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    }


def written(folder: Path) -> dict[bytes, str]:
    """The same from the files of <split>/<class>/."""
    paths = [path for path in members(folder) if path.suffix == ".png"]
    pixels = [np.asarray(Image.open(path)) for path in paths]
    pixels = [p[None] if p.ndim == 2 else p.transpose(2, 0, 1) for p in pixels]
    return {
        p.tobytes(): path.parent.name for p, path in zip(pixels, paths, strict=True)
    }


@pytest.mark.parametrize("top", ["", "animals"])
@pytest.mark.parametrize("suffix", ["", *ARCHIVES])
def test_every_pixel_and_label_is_kept(suffix, top, tmp_path, root):
    folder = tree(tmp_path / "images")
    source = pack(folder, suffix, top) if suffix else folder
    if top and not suffix:
        source = tmp_path / "above"
        shutil.copytree(folder, source / top)
    path = data.import_images(source, "mine", root)
    assert path.parent == root
    splits = load(root)
    assert [len(split.labels) for split in splits] == [27, 3, 30]
    assert splits.train.classes == ("ant", "bee", "cat")
    assert splits.val.labels.bincount().tolist() == [1, 1, 1]
    assert splits.train.images.shape[1:] == (3, 5, 6)
    assert seen(splits.train, splits.val) == written(folder / "train")
    assert seen(splits.test) == written(folder / "test")
    for split in (splits.train, splits.test):
        assert (split.labels.diff() < 0).any()  # not class by class


def test_greyscale_has_one_channel_unless_there_is_colour(tmp_path, root):
    grey = tree(tmp_path / "grey", mode="L")
    data.import_images(grey, "grey", root)
    assert load(root, "grey").test.images.shape == (30, 1, 5, 6)
    assert seen(load(root, "grey").test) == written(grey / "test")
    save(grey / "train" / "ant" / "one.png", 1000)
    data.import_images(grey, "mixed", root)
    images = load(root, "mixed").test.images
    assert images.shape == (30, 3, 5, 6)
    assert (images == images[:, :1]).all()


def test_suffixes_subfolders_and_junk(tmp_path, root):
    """Five kinds of file, in any case; images/ below a class; systems' own files."""
    for split in ("train", "test"):
        kinds = ("a.png", "b.PNG", "c.jpg", "d.JPEG", "e.bmp", "f.webp")
        for number, name in enumerate(kinds):
            save(tmp_path / "images" / split / "ant" / name, number)
            save(tmp_path / "images" / split / "bee" / "images" / name, 10 + number)
        for junk in ("ant/._a.png", "ant/.DS_Store", "ant/notes.txt", "__MACOSX/a.png"):
            path = tmp_path / "images" / split / junk
            path.parent.mkdir(exist_ok=True)
            path.write_text("no image")
    junk = tmp_path / "images" / "__MACOSX" / "train" / "ant" / "._a.png"
    junk.parent.mkdir(parents=True)
    junk.write_text("no image")
    shutil.rmtree(tmp_path / "images" / "train" / "__MACOSX")
    shutil.rmtree(tmp_path / "images" / "test" / "__MACOSX")
    for source in (tmp_path / "images", pack(tmp_path / "images", ".zip", "top")):
        data.import_images(source, "mine", root)
        splits = load(root)
        assert splits.test.classes == ("ant", "bee")
        assert splits.test.labels.bincount().tolist() == [6, 6]


def test_val_is_the_test_split_only_where_there_is_no_test(tmp_path, root):
    two = tree(tmp_path / "two", ("train", "val"))
    data.import_images(two, "two", root)
    assert [len(split.labels) for split in load(root, "two")] == [27, 3, 30]
    assert seen(load(root, "two").test) == written(two / "val")
    three = tree(tmp_path / "three", ("train", "val", "test"))
    data.import_images(three, "three", root)
    splits = load(root, "three")
    for split, name in zip(splits, ("train", "val", "test"), strict=True):
        assert seen(split) == written(three / name)
        assert (split.labels.diff() < 0).any()


def tiny_imagenet(folder: Path) -> Path:
    """Two classes in the published layout, its unlabelled test images included."""
    rows = []
    for c, wnid in enumerate(("n01443537", "n01629819")):
        for i in range(10):
            path = folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG"
            save(path, 100 * c + i)
            name = f"val_{2 * i + c}.JPEG"
            save(folder / "val" / "images" / name, 300 + 100 * c + i)
            rows.append(f"{name}\t{wnid}\t0\t0\t5\t4")
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("0\t0\t5\t4")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    save(folder / "test" / "images" / "test_0.JPEG", 999)
    (folder / "wnids.txt").write_text("n01629819\nn01443537\n")
    (folder / "words.txt").write_text(
        "n01443537\tgoldfish, Carassius auratus\nn01629819\tEuropean fire salamander\n"
    )
    return folder


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_tiny_imagenet_is_found_in_its_published_layout(kind, tmp_path, root):
    top = tiny_imagenet(tmp_path / "tiny-imagenet-200")
    root.mkdir()
    if kind == "folder":
        shutil.copytree(top, root / top.name)
    else:
        shutil.copy(pack(top, ".zip", top.name), root / "tiny-imagenet-200.zip")
    splits = load(root, "tiny-imagenet")
    assert [len(split.labels) for split in splits] == [18, 2, 20]
    assert splits.test.labels.bincount().tolist() == [10, 10]
    paths = sorted((top / "val" / "images").iterdir())
    rows = (top / "val" / "val_annotations.txt").read_text().splitlines()
    wnid = dict(row.split("\t")[:2] for row in rows)
    expected = {
        np.asarray(Image.open(p)).transpose(2, 0, 1).tobytes(): wnid[p.name]
        for p in paths
    }
    wnids = sorted(set(wnid.values()))
    for image, label in zip(splits.test.images, splits.test.labels, strict=True):
        assert expected[image.numpy().tobytes()] == wnids[label]


def test_size_brings_all_images_to_one_size(tmp_path, root):
    folder = tmp_path / "images"
    for split, (i, size) in itertools.product(
        ("train", "test"), enumerate([(6, 5), (9, 9), (4, 8)])
    ):
        save(folder / split / "ant" / f"{i}.png", i, size=size)
        Image.new("RGB", size, (10, 20, 30)).save(folder / split / "ant" / f"c{i}.png")
    two = r"ant/\S+ has \dx\d .*ant/\S+ has \dx\d.*pass size= \(--size\)"
    with pytest.raises(ValueError, match=two):
        data.import_images(folder, "mine", root)
    data.import_images(folder, "mine", root, size=8)
    images = load(root).test.images
    assert images.shape == (6, 3, 8, 8)
    constant = [tuple(i[:, 0, 0].tolist()) for i in images if (i == i[:, :1, :1]).all()]
    assert constant == [(10, 20, 30)] * 3


def test_a_second_import_takes_the_place_of_the_first(tmp_path, root):
    first, second = tree(tmp_path / "first"), tree(tmp_path / "second", each=20)
    data.import_images(first, "mine", root)
    data.import_images(second, "mine", root)
    assert len(load(root).test.labels) == 60


def test_an_imported_set_goes_before_the_built_in(tmp_path, root):
    data.import_images(tree(tmp_path / "images"), "cifar10", root)
    assert load(root, "cifar10").test.classes == ("ant", "bee", "cat")


def test_imported_names_are_listed(tmp_path, root):
    data.import_images(tree(tmp_path / "images"), "animals", root)
    message = "unknown data set 'animal': did you mean 'animals'?.*cifar10.*animals"
    with pytest.raises(ValueError, match=message):
        load(root, "animal")


def remove(*names: str):
    def change(folder: Path) -> None:
        for name in names:
            shutil.rmtree(folder / name)

    return change


def empty(name: str):
    def change(folder: Path) -> None:
        for path in members(folder / name):
            path.unlink()

    return change


def write(name: str, content: bytes):
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return change


def picture_in(name: str, content: slice = slice(None)):
    buffer = io.BytesIO()
    picture(0).save(buffer, "png")
    return write(name, buffer.getvalue()[content])


BAD_TREES = {
    "no train": (remove("train"), r"train/<class>/"),
    "no test": (remove("test"), r"test/<class>/"),
    "nothing": (remove("train", "test"), r"train/<class>/"),
    "no images": (empty("train"), r"train"),
    "empty class": (empty("train/bee"), r"train/bee"),
    "empty class in test": (empty("test/bee"), r"test/bee"),
    "class of test": (picture_in("test/dog/1.png"), r"class 'dog'"),
    "text": (write("train/ant/9.png", b"hello"), r"train/ant/9\.png"),
    "nothing in it": (write("test/cat/9.png", b""), r"test/cat/9\.png"),
    "cut short": (picture_in("test/cat/9.png", slice(-40)), r"test/cat/9\.png"),
    "cut early": (picture_in("train/cat/9.png", slice(30)), r"train/cat/9\.png"),
}


@pytest.mark.parametrize("name", BAD_TREES)
def test_a_bad_tree_is_explained(name, tmp_path, root):
    change, message = BAD_TREES[name]
    folder = tree(tmp_path / "images")
    change(folder)
    with pytest.raises(ValueError, match=message) as caught:
        data.import_images(folder, "mine", root)
    assert "\n" not in str(caught.value)
    assert not root.exists() or not list(root.iterdir())


def test_an_empty_class_of_an_archive_is_explained(tmp_path, root):
    archive = pack(tree(tmp_path / "images"), ".zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("train/dog/", b"")
    with pytest.raises(ValueError, match="train/dog"):
        data.import_images(archive, "mine", root)


def test_sixteen_bit_images_are_not_clipped(tmp_path, root):
    folder = tree(tmp_path / "images", mode="L")
    deep = np.full((5, 6), 40_000, np.uint16)
    Image.fromarray(deep).save(folder / "train" / "ant" / "deep.png")
    with pytest.raises(ValueError, match=r"train/ant/deep\.png"):
        data.import_images(folder, "mine", root)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "ä", "a\n"])
def test_a_name_that_cannot_be_is_refused(name, tmp_path, root):
    with pytest.raises(ValueError, match="letters, digits"):
        data.import_images(tree(tmp_path / "images"), name, root)


@pytest.mark.parametrize("name", ["digits", "fashion-mini"])
def test_an_embedded_sets_name_is_taken(name, tmp_path, root):
    with pytest.raises(ValueError, match=f"'{name}' comes with"):
        data.import_images(tree(tmp_path / "images"), name, root)


def test_a_source_that_is_missing_or_no_archive(tmp_path, root):
    with pytest.raises(ValueError, match=r"nothing\.zip"):
        data.import_images(tmp_path / "nothing.zip", "mine", root)
    (tmp_path / "letter.doc").write_text("dear all")
    with pytest.raises(ValueError, match=r"letter\.doc"):
        data.import_images(tmp_path / "letter.doc", "mine", root)


def with_tar_member(archive: Path, name: str, **fields) -> None:
    """Add a member whose header tarfile would not write by itself."""
    with tarfile.open(archive, "a") as file:
        info = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(info, field, value)
        file.addfile(info, io.BytesIO(bytes(info.size)))


ESCAPES = {
    "parent": ("../evil.png", {"size": 3}),
    "inner parent": ("train/ant/../../../evil.png", {"size": 3}),
    "absolute": ("/evil.png", {"size": 3}),
    "backslash": ("..\\evil.png", {"size": 3}),
    "link": ("train/ant/l.png", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
    "hard link": (
        "train/ant/h.png",
        {"type": tarfile.LNKTYPE, "linkname": "train/ant/000.png"},
    ),
    "device": ("train/ant/d.png", {"type": tarfile.CHRTYPE}),
    "pipe": ("train/ant/p.png", {"type": tarfile.FIFOTYPE}),
}


@pytest.mark.parametrize("case", ESCAPES)
def test_a_dangerous_tar_member_is_refused_by_name(case, tmp_path, root):
    name, fields = ESCAPES[case]
    archive = pack(tree(tmp_path / "images"), ".tar")
    with_tar_member(archive, name, **fields)
    before = set(members(tmp_path))
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        data.import_images(archive, "mine", root)
    assert set(members(tmp_path)) == before  # nothing was written anywhere


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("../evil.png", 0o100644),
        ("/evil.png", 0o100644),
        ("train\\..\\..\\evil.png", 0o100644),
        ("train/ant/l.png", 0o120777),
    ],
)
def test_a_dangerous_zip_member_is_refused_by_name(name, mode, tmp_path, root):
    archive = pack(tree(tmp_path / "images"), ".zip")
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(info, "/etc/passwd")
    before = set(members(tmp_path))
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        data.import_images(archive, "mine", root)
    assert set(members(tmp_path)) == before  # nothing was written anywhere


def test_an_encrypted_zip_is_explained(tmp_path, root):
    archive = pack(tree(tmp_path / "images"), ".zip")
    content = bytearray(archive.read_bytes())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag words
        start = content.find(magic)
        while start >= 0:
            content[start + at] |= 1
            start = content.find(magic, start + 4)
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"images-packed\.zip"):
        data.import_images(archive, "mine", root)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", ARCHIVES)
def test_a_truncated_archive_is_refused(suffix, kept, tmp_path, root):
    archive = pack(tree(tmp_path / "images"), suffix)
    content = archive.read_bytes().rstrip(b"\0")  # a .tar is padded with zeros
    archive.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match="images-packed") as caught:
        data.import_images(archive, "mine", root)
    assert "\n" not in str(caught.value)


def test_a_tar_cut_between_two_members_is_refused(tmp_path, root):
    """No member is incomplete then; only the zeros at the end are missing."""
    archive = pack(tree(tmp_path / "images"), ".tar")
    with tarfile.open(archive) as file:
        last = file.getmembers()[-1]
    archive.write_bytes(archive.read_bytes()[: last.offset])
    with pytest.raises(ValueError, match="images-packed"):
        data.import_images(archive, "mine", root)


def test_a_tar_with_a_damaged_header_is_refused(tmp_path, root):
    """Else what comes after it would be left out without a word."""
    archive = pack(tree(tmp_path / "images"), ".tar")
    with tarfile.open(archive) as file:
        last = file.getmembers()[-2]
    content = bytearray(archive.read_bytes())
    content[last.offset] ^= 1  # the first letter of its name; its checksum stays
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="images-packed"):
        data.import_images(archive, "mine", root)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.xz", ".tar.bz2"])
@pytest.mark.parametrize("at", [0.3, 0.6])
def test_an_altered_archive_is_refused(suffix, at, tmp_path, root):
    """These formats carry checksums of their own."""
    archive = pack(tree(tmp_path / "images"), suffix)
    content = bytearray(archive.read_bytes())
    for i in range(16):
        content[int(at * len(content)) + i] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"images-packed|(test|train)/\w+/\d+\.png"):
        data.import_images(archive, "mine", root)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_that_grows_too_large_is_refused(
    suffix, tmp_path, root, monkeypatch
):
    archive = pack(tree(tmp_path / "images"), suffix)
    monkeypatch.setattr(archives, "LARGEST", 500)
    with pytest.raises(ValueError, match="unpacks to more than 500 bytes"):
        data.import_images(archive, "mine", root)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_one_huge_member_is_refused_before_it_is_read(
    suffix, tmp_path, root, monkeypatch
):
    """100 MB of zeros, in 100 kB of archive, must not come into memory."""
    folder = tree(tmp_path / "images")
    with (folder / "train" / "ant" / "bomb.png").open("wb") as file:
        file.truncate(10**8)
    archive = pack(folder, suffix)
    monkeypatch.setattr(archives, "LARGEST", 10**6)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="unpacks to more than 1,000,000 bytes"):
            data.import_images(archive, "mine", root)
        assert tracemalloc.get_traced_memory()[1] < 3 * 10**7
    finally:
        tracemalloc.stop()


@pytest.fixture
def imported(tmp_path, root):
    """The file of a good import."""
    return data.import_images(tree(tmp_path / "images"), "mine", root)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_half_written_cache_is_never_used(imported, kept):
    content = imported.read_bytes()
    imported.write_bytes(content[: int(kept * len(content))])
    message = f"{imported.name} was .*import it again: python -m sbtutor.data import"
    with pytest.raises(ValueError, match=message):
        load(imported.parent)


@pytest.mark.parametrize("at", [0.0, 0.3, 0.7, 0.999])
def test_an_altered_cache_is_never_used(imported, at):
    content = bytearray(imported.read_bytes())
    content[int(at * len(content))] ^= 1
    imported.write_bytes(content)
    message = f"{imported.name} was .*import it again: python -m sbtutor.data import"
    with pytest.raises(ValueError, match=message):
        load(imported.parent)


def test_a_failed_import_leaves_the_good_one(imported, tmp_path):
    before = {path: path.read_bytes() for path in imported.parent.iterdir()}
    bad = tree(tmp_path / "bad", each=2)
    (bad / "test" / "cat" / "999.png").write_text("no image")
    with pytest.raises(ValueError, match=r"999\.png"):
        data.import_images(bad, "mine", imported.parent)
    assert {path: path.read_bytes() for path in imported.parent.iterdir()} == before


def test_a_full_disk_leaves_the_good_import(imported, tmp_path, monkeypatch):
    before = {path: path.read_bytes() for path in imported.parent.iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="disk full") as caught:
        data.import_images(tree(tmp_path / "more", each=20), "mine", imported.parent)
    assert str(imported.parent) in str(caught.value)
    assert {path: path.read_bytes() for path in imported.parent.iterdir()} == before


@pytest.mark.parametrize("given", ["root", "SBTUTOR_DATA", "XDG_CACHE_HOME", "HOME"])
def test_where_data_lie(given, tmp_path, monkeypatch):
    """What is given goes before $SBTUTOR_DATA, and that before the user's cache."""
    for name in ("SBTUTOR_DATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # set but empty is as not set
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    expected = {
        "root": tmp_path / "x",
        "SBTUTOR_DATA": tmp_path / "x",
        "XDG_CACHE_HOME": tmp_path / "x" / "sbtutor",
        "HOME": tmp_path / "home" / ".cache" / "sbtutor",
    }[given]
    folder = None
    if given == "root":
        monkeypatch.setenv("SBTUTOR_DATA", str(tmp_path / "other"))
        folder = tmp_path / "x"
    elif given != "HOME":
        monkeypatch.setenv(given, str(tmp_path / "x"))
    monkeypatch.chdir(tmp_path)
    path = data.import_images(tree(tmp_path / "images", each=2), "mine", folder)
    assert path.parent == expected


def test_the_command_imports_and_lists(tmp_path, root, capsys):
    archive = pack(tree(tmp_path / "images"), ".zip", "top")
    cache.main(["import", str(archive), "--name", "animals", "--root", str(root)])
    told = capsys.readouterr().out
    assert str(archive) in told
    assert str(root) in told
    cache.main(["list", "--root", str(root)])
    assert "animals" in capsys.readouterr().out
    assert len(load(root, "animals").test.labels) == 30


def test_the_command_resizes(tmp_path, root):
    folder = str(tree(tmp_path / "images"))
    cache.main(["import", folder, "--name", "a", "--root", str(root), "--size", "4"])
    assert load(root, "a").test.images.shape[2:] == (4, 4)


def test_the_module_is_a_command_and_bad_input_one_line(tmp_path):
    """`python -m sbtutor.data` itself, with a source that is not there."""
    command = [sys.executable, "-m", "sbtutor.data", "import", "no.zip", "--name", "a"]
    done = subprocess.run(
        [*command, "--root", str(tmp_path)],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "no.zip" in done.stderr


@pytest.mark.parametrize("size", ["0", "-3"])
def test_a_size_that_cannot_be_is_named(size, tmp_path, root, capsys):
    folder = str(tree(tmp_path / "images", each=2))
    command = ["import", folder, "--name", "a", "--root", str(root), "--size", size]
    with pytest.raises(SystemExit, match="2"):
        cache.main(command)
    assert f"size must be at least 1 pixel, got {size}" in capsys.readouterr().err


@pytest.fixture(scope="session")
def some_cifar10(tmp_path_factory):
    """A tar of the first 20 training and 5 test images of each class of CIFAR-10."""
    if not JPEG.is_file():
        pytest.skip(f"no CIFAR-10 as JPEG at {JPEG}; set SBTUTOR_CIFAR10_JPEG")
    path = tmp_path_factory.mktemp("cifar10") / "some.tar"
    most = {"train": 20, "test": 5}
    taken = dict.fromkeys(most, 0)
    counts: dict[str, int] = {}
    with tarfile.open(JPEG, "r|xz") as archive, tarfile.open(path, "w") as some:
        for member in archive:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) < 3:
                continue
            folder = "/".join(parts[-3:-1])
            counts[folder] = counts.get(folder, 0) + 1
            if counts[folder] <= most[parts[-3]]:
                some.addfile(member, archive.extractfile(member))
                taken[parts[-3]] += 1
    assert taken == {"train": 200, "test": 50}
    return path


def test_cifar10_as_jpeg_files_imports(some_cifar10, root):
    data.import_images(some_cifar10, "cifar10", root)
    splits = load(root, "cifar10")
    assert [len(split.labels) for split in splits] == [180, 20, 50]
    assert splits.train.images.shape[1:] == (3, 32, 32)
    assert splits.test.labels.bincount().tolist() == [5] * 10
    assert splits.train.classes[:3] == ("airplane", "automobile", "bird")
    mean, std = data.channel_statistics(splits.train.images)
    published = torch.tensor([0.4914, 0.4822, 0.4465])  # of all 50,000
    assert (mean - published).abs().max() < 4 * 0.25 / 180**0.5
    assert ((std > 0.2) & (std < 0.3)).all()
