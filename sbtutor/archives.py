"""The files of a folder or archive, one by one; nothing is unpacked to disk."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
LARGEST = 20 * 10**9  # bytes that the files of an archive may have together
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    NotImplementedError,  # a compression that zipfile does not know
)


class Member(NamedTuple):
    """One entry of an archive, whatever its format."""

    name: str
    kind: str  # "file", "folder", or what else it is
    open: Callable[[], IO[bytes]]


class _StrictInfo(tarfile.TarInfo):
    """Refuses a damaged header, where tarfile takes it for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        """The member that a block of 512 bytes describes."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # the archive's proper end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def read(
    source: Path, wanted: Callable[[PurePosixPath], bool]
) -> Iterator[tuple[PurePosixPath, bytes | None]]:
    """The paths of all files and folders, with the contents of wanted files.

    Raises:
        ValueError: not an archive of a known kind; cut short or damaged; encrypted; a
            link or device in it, or a path that leads out of it; above `LARGEST`.
    """
    if source.is_dir():
        yield from _folder(source, wanted)
        return
    if not source.is_file():
        raise ValueError(f"{source} does not exist; give an archive or a folder")
    if not source.name.lower().endswith(SUFFIXES):
        raise ValueError(
            f"{source} is no folder and no archive ({', '.join(SUFFIXES)})"
        )
    members = _zip if source.name.lower().endswith(".zip") else _tar
    left = LARGEST
    try:
        for member in members(source):
            path, content = _safe(member, source), None
            if member.kind == "file" and wanted(path):
                with member.open() as file:
                    content = file.read(left + 1)  # no more, whatever it claims
                left -= len(content)
                if left < 0:
                    raise ValueError(
                        f"{source} unpacks to more than {LARGEST:,} bytes, at "
                        f"{member.name!r}; unpack it yourself and import the folder"
                    )
            yield path, content
    except BROKEN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{source} is damaged or cut short ({reason}); fetch it again"
        ) from None


def _folder(
    source: Path, wanted: Callable[[PurePosixPath], bool]
) -> Iterator[tuple[PurePosixPath, bytes | None]]:
    for path in sorted(source.rglob("*")):
        name = PurePosixPath(path.relative_to(source).as_posix())
        yield name, path.read_bytes() if path.is_file() and wanted(name) else None


def _safe(member: Member, source: Path) -> PurePosixPath:
    parts = member.name.replace("\\", "/").split("/")
    if member.name[:1] in ("/", "\\") or ".." in parts or ":" in parts[0]:
        raise ValueError(
            f"{source} holds {member.name!r}, a path that leads out of the archive; "
            "pack it again without such paths"
        )
    if member.kind not in ("file", "folder"):
        raise ValueError(
            f"{source} holds {member.name!r}, a {member.kind}; pack plain files only"
        )
    return PurePosixPath(*parts)


def _tar(source: Path) -> Iterator[Member]:
    with tarfile.open(source, tarinfo=_StrictInfo) as tar:
        for info in tar:
            kind = "link" if info.issym() or info.islnk() else "device"
            kind = "file" if info.isreg() else "folder" if info.isdir() else kind
            yield Member(info.name, kind, lambda info=info: tar.extractfile(info))
        # A whole archive ends with a block of zeros, which tarfile has now read.
        if tar.fileobj.tell() < tar.offset + tarfile.BLOCKSIZE:
            raise tarfile.ReadError("its end is missing")


def _zip(source: Path) -> Iterator[Member]:
    with zipfile.ZipFile(source) as file:
        for info in file.infolist():
            mode = info.external_attr >> 16
            kind = "folder" if info.is_dir() else "file"
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "link" if stat.S_ISLNK(mode) else "device"
            if info.flag_bits & 1:
                kind = "file with a password"
            yield Member(info.filename, kind, lambda info=info: file.open(info))
