"""Files that are whole or absent: written in one stroke, checked when read."""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

DIGEST = 32  # bytes of SHA-256 at the end of a checked file


class BrokenFileError(ValueError):
    """A file is not what was written."""


class LockedError(ValueError):
    """Another process works on it."""


@contextlib.contextmanager
def locked(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a file's lock; it ends with the process, however that ends.

    The file says who holds it. Windows has no such locks, nor have some network disks:
    there nothing is locked.

    Args:
        path: the file; made if need be, and left there.
        patience: seconds to wait for another process to let go.

    Raises:
        LockedError: it is held by another process, which is named.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        until = time.monotonic() + patience
        while not _lock(file):
            if time.monotonic() >= until:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise LockedError(f"{path.parent} is being worked on by {holder}")
            time.sleep(min(0.2, max(0.0, until - time.monotonic())))
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def _lock(file: TextIO) -> bool:
    """Whether the lock is ours now."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this disk knows no locks
        return True
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one.

    Raises:
        OSError: with a plain message when the disk is full; the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:  # an interrupt, too, leaves nothing behind
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"disk full: {len(content):,} bytes do not fit; free some space and "
                "run the same command again, what was saved before is kept",
                str(path),
            ) from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity, which JSON lacks, as null."""
    text = json.dumps(_finite(value), indent=1, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(path: Path, remedy: str = "delete it and run again") -> Any:
    """The value that `write_json` wrote.

    `remedy` says what the reader can do about a broken file, for the message.

    Raises:
        BrokenFileError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise BrokenFileError(
            f"{path} is not valid JSON ({error}): it was altered or cut short; {remedy}"
        ) from None


def save_tensors(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values, followed by their SHA-256."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_bytes(path, content + hashlib.sha256(content).digest())


def load_tensors(path: Path, remedy: str) -> dict[str, Any]:
    """What `save_tensors` wrote, on the CPU.

    Args:
        path: the file.
        remedy: what the reader can do if it is broken, for the error message.

    Raises:
        BrokenFileError: the file was cut short or altered.
    """
    content = path.read_bytes()
    body, digest = content[:-DIGEST], content[-DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise BrokenFileError(
            f"{path} was cut short or altered (its checksum does not fit); {remedy}"
        )
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as a compressed `.npz`, in which each array has a checksum."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `save_arrays` wrote.

    Raises:
        BrokenFileError: the file was cut short or altered.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with np.load(content, allow_pickle=False) as saved:
            return dict(saved)
    except Exception as error:  # a zip reader can stumble in a dozen ways
        raise BrokenFileError(
            f"{path} was cut short or altered ({error}); delete it and run again"
        ) from None
