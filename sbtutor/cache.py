"""Image folders and archives, imported into one checksummed tensor file each."""

import argparse
import contextlib
import io
import os
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from sbtutor import archives, files

EMBEDDED = ("fashion-mini", "digits")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
ANNOTATIONS = "val_annotations.txt"
# PIL's modes of 8 bits a channel, without colour and with it.
GREY = ("1", "L", "LA")
COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")


def root(folder: Path | str | None) -> Path:
    """Where data sets lie: the folder given, $SBTUTOR_DATA, or the user's cache."""
    if folder is None:
        folder = os.environ.get("SBTUTOR_DATA") or (
            Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sbtutor"
        )
    return Path(folder).expanduser()


def path_of(name: str, folder: Path | str | None) -> Path:
    """The tensor file of an imported set.

    Raises:
        ValueError: a name that cannot be a file's name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(
            f"a data set's name is made of letters, digits, '.', '_' and '-', "
            f"got {name!r}"
        )
    return root(folder) / f"{name}.pt"


def names(folder: Path | str | None) -> list[str]:
    """Names of all imported sets."""
    return sorted(path.stem for path in root(folder).glob("*.pt"))


def load(path: Path) -> dict[str, Any]:
    """An imported set: `classes`, and (images, labels) under train, test and val."""
    again = f"python -m sbtutor.data import ARCHIVE --name {path.stem}"
    return files.load_tensors(path, f"import it again: {again}")


def decoded(path: PurePosixPath, content: bytes, size: int | None) -> np.ndarray:
    """One image as uint8 (C, H, W); greyscale stays one channel."""
    try:
        # By content PIL would also run Ghostscript and other readers.
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.mode not in GREY + COLOUR:
                raise ValueError(f"mode {image.mode}, not 8 bits a channel")
            image = image.convert("L" if image.mode in GREY else "RGB")
            if size is not None:
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except Exception as error:  # decoders raise errors of many types
        raise ValueError(
            f"{path} is not a readable image ({error}); remove or replace it"
        ) from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _is_wanted(path: PurePosixPath) -> bool:
    return path.name == ANNOTATIONS or _place(path) is not None


def _place(path: PurePosixPath) -> tuple[str, str] | None:
    """(split, class) of a path like [top/]train/CLASS/[images/]FILE, else None.

    The class is "" for images that lie right in [top/]val/images, as TinyImageNet's.
    """
    if path.name.startswith(".") or "__MACOSX" in path.parts:
        return None
    for i, part in enumerate(path.parts[:2]):
        if part in ("train", "val", "test") and path.suffix.lower() in IMAGES:
            inner = [p for p in path.parts[i + 1 : -1] if p != "images"]
            return part, inner[0] if inner else ""
    return None


def _annotations(content: bytes) -> dict[str, str]:
    """TinyImageNet's val_annotations.txt: file name, class, box."""
    rows = (line.split("\t") for line in content.decode().splitlines())
    return {row[0]: row[1] for row in rows if len(row) > 1}


def _collect(
    source: Path, size: int | None
) -> dict[str, list[tuple[str, str, np.ndarray]]]:
    """(class, path, pixels) of all images, by split; unlabelled ones are left out."""
    found: dict[str, list[tuple[str, str, np.ndarray]]] = {}
    classes: dict[str, str] = {}
    empty: dict[tuple[str, str], PurePosixPath] = {}
    for path, content in archives.read(source, _is_wanted):
        if content is not None and path.name == ANNOTATIONS:
            classes = _annotations(content)
            continue
        place = _place(path if content is not None else path / f"any{IMAGES[0]}")
        if place is None or (place[1] == "" and place[0] == "test"):
            continue
        if content is None:
            empty[place] = path
        else:
            pixels = decoded(path, content, size)
            found.setdefault(place[0], []).append((place[1], str(path), pixels))
    for place, path in empty.items():
        if place[1] and all(name != place[1] for name, *_ in found.get(place[0], ())):
            raise ValueError(f"{path} has no images; fill it or remove it")
    found["val"] = [
        (name or classes.get(PurePosixPath(path).name, ""), path, pixels)
        for name, path, pixels in found.get("val", [])
    ]
    if not found["val"]:
        del found["val"]
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
    return found


def _check(found: dict[str, list[tuple[str, str, np.ndarray]]], source: Path) -> None:
    for part in ("train", "test"):
        if part not in found:
            raise ValueError(
                f"{source} has no images under {part}/<class>/; it needs train/ and "
                f"test/ (or val/), one folder a class, files {', '.join(IMAGES)}"
            )
    known = {name for name, _, _ in found["train"]}
    for part, rows in found.items():
        for name, path, _ in rows:
            if name not in known or name == "":
                raise ValueError(
                    f"{path}: class {name!r} of {part} is not in train "
                    f"({len(known)} classes there); every class must be in train"
                )
    rows = [row for part in found.values() for row in part]
    _, first, pixels = rows[0]
    for _, path, other in rows:
        if other.shape[1:] != pixels.shape[1:]:
            raise ValueError(
                f"{path} has {other.shape[2]}x{other.shape[1]} pixels but {first} has "
                f"{pixels.shape[2]}x{pixels.shape[1]}; pass size= (--size) to scale all"
            )


def _tensors(
    rows: list[tuple[str, str, np.ndarray]], classes: list[str], channels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, C, H, W) and labels (N,), in the order of the paths."""
    rows = sorted(rows, key=lambda row: row[1])
    images = np.empty((len(rows), channels, *rows[0][2].shape[1:]), np.uint8)
    for i, (_, _, pixels) in enumerate(rows):
        images[i] = pixels  # greyscale is repeated where others have colours
    labels = torch.tensor([classes.index(name) for name, _, _ in rows])
    return torch.from_numpy(images), labels


def import_images(
    archive_or_folder: Path | str,
    name: str,
    root: Path | str | None = None,
    size: int | None = None,
) -> Path:
    """Turn a tree of images into one tensor file that `data.load` finds by name.

    The tree holds train/<class>/ and test/<class>/ (or val/<class>/, which is used
    for testing where there is no test), perhaps below one folder on top, with PNG,
    JPEG, BMP or WebP files; TinyImageNet's own layout is understood too. Archives
    (zip, tar, tar.gz, tar.xz, tar.bz2) are read in memory: nothing is unpacked, and
    links or paths that lead out of the archive are refused. Images are made RGB
    unless all are greyscale. The file appears only when it is whole, with a SHA-256.

    Args:
        archive_or_folder: what to read.
        name: the name for DataConfig; `cifar10` replaces the built-in download.
        root: where to keep it; None: $SBTUTOR_DATA or the user's cache.
        size: scale all images to size x size pixels; needed where they differ.

    Returns:
        The tensor file.

    Raises:
        ValueError: a name that is taken, nothing to read, no images, an unreadable
            image, images of different sizes, a class that train lacks.
        OSError: the disk is full.
    """
    if name in EMBEDDED:
        raise ValueError(f"{name!r} comes with the package; choose another name")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    target, source = path_of(name, root), Path(archive_or_folder).expanduser()
    found = _collect(source, size)
    _check(found, source)
    classes = sorted({label for label, _, _ in found["train"]})
    channels = max(len(pixels) for rows in found.values() for *_, pixels in rows)
    state: dict[str, Any] = {"classes": classes, "source": source.name}
    for part, rows in found.items():
        state[part] = _tensors(rows, classes, channels)
    files.save_tensors(target, state)
    return target


def main(arguments: list[str] | None = None) -> None:
    """`python -m sbtutor.data import ARCHIVE --name NAME`, or `list`."""
    parser = argparse.ArgumentParser(prog="python -m sbtutor.data")
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("import", help="a folder or archive of images")
    adding.add_argument("source", help="zip, tar or folder with train/ and test/")
    adding.add_argument("--name", required=True, help="name for DataConfig")
    adding.add_argument("--size", type=int, help="scale to SIZE x SIZE pixels")
    listing = commands.add_parser("list", help="what has been imported")
    for command in (adding, listing):
        command.add_argument("--root", help="folder (default $SBTUTOR_DATA or cache)")
    given = parser.parse_args(arguments)
    if given.command == "list":
        print("\n".join(names(given.root)) or f"nothing in {root(given.root)}")
        return
    try:
        print(f"reading {given.source} ...", flush=True)
        path = import_images(given.source, given.name, given.root, given.size)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    saved = load(path)
    counts = ", ".join(
        f"{len(saved[part][1]):,} {part}"
        for part in ("train", "val", "test")
        if part in saved
    )
    print(f"{counts} images of {len(saved['classes'])} classes in {path}")
    with contextlib.suppress(BrokenPipeError):
        print(f"use it with DataConfig(name={given.name!r})")
