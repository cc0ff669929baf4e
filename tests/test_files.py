"""Files are whole or absent; what is broken is named, with what to do."""

import errno
import json
import math
import os
import stat
import subprocess

import numpy as np
import pytest
import torch

from sbtutor import files
from sbtutor.files import BrokenFileError


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB; skipped where it cannot be mounted."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tiny disk is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def failing(code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    return fail


def test_write_bytes_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    for content in (b"old", b"new"):
        files.write_bytes(path, content)
        assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_files_get_the_permissions_that_open_would_give(tmp_path):
    """Not the 0600 of temporary files: colleagues must be able to read runs."""
    old = os.umask(0o027)
    try:
        files.write_bytes(tmp_path / "file", b"")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failed_write_keeps_the_old_file_and_no_litter(
    tmp_path, monkeypatch, call, code
):
    path = tmp_path / "checkpoint.pt"
    files.write_bytes(path, b"good")
    monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(OSError, match=f"Errno {code}"):
        files.write_bytes(path, b"never")
    assert path.read_bytes() == b"good"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_no_litter_either(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes(tmp_path / "file", b"never")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_file_and_remedy(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", failing(code))
    message = "disk full: 5,000 bytes do not fit; free some space.*run.json"
    with pytest.raises(OSError, match=message) as error:
        files.write_bytes(tmp_path / "run.json", b"x" * 5000)
    assert error.value.errno == code


def test_a_disk_that_is_really_full(tiny_disk):
    path = tiny_disk / "file"
    files.write_bytes(path, b"x" * 40_000)
    with pytest.raises(OSError, match=r"disk full: 40,001 bytes do not fit.*/file"):
        files.write_bytes(path, b"y" * 40_001)
    assert path.read_bytes() == b"x" * 40_000
    assert list(tiny_disk.iterdir()) == [path]


@pytest.mark.parametrize("nan", [math.nan, math.inf, -math.inf])
def test_json_round_trip_with_what_is_not_finite_as_null(tmp_path, nan):
    path = tmp_path / "metrics.json"
    files.write_json(path, {"a": 0.1, "b": nan, "c": [1, nan], "d": {"e": (nan, "x")}})
    assert files.read_json(path) == {
        "a": 0.1,
        "b": None,
        "c": [1, None],
        "d": {"e": [None, "x"]},
    }


def test_json_keeps_every_bit_of_a_float(tmp_path):
    values = torch.rand(50, generator=torch.Generator().manual_seed(0)).tolist()
    files.write_json(tmp_path / "x.json", values)
    assert files.read_json(tmp_path / "x.json") == values


@pytest.mark.parametrize("content", ["", '{"a": 1', "\x00\x01"])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(
        BrokenFileError, match=r"config\.json is not valid JSON.*delete"
    ):
        files.read_json(path)


def test_json_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(BrokenFileError, match=r"config\.json is not valid JSON"):
        files.read_json(path)


def test_tensors_round_trip_with_bits_and_memory_layout(tmp_path):
    path = tmp_path / "state.pt"
    conv = torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last)
    state = {
        "conv": conv,
        "nan": torch.tensor([float("nan")]),
        "epoch": 3,
        "none": None,
    }
    files.save_tensors(path, state)
    back = files.load_tensors(path, "")
    assert torch.equal(back["conv"], conv)
    assert back["conv"].stride() == conv.stride()
    assert back["nan"].isnan().all()
    assert (back["epoch"], back["none"]) == (3, None)


def test_every_truncation_and_every_altered_byte_of_tensors_is_found(tmp_path):
    path = tmp_path / "state.pt"
    files.save_tensors(path, {"w": torch.arange(3.0)})
    content = path.read_bytes()
    broken = [content[:n] for n in range(0, len(content), 7)]
    for i in range(0, len(content), 7):
        altered = bytearray(content)
        altered[i] ^= 0x10
        broken.append(bytes(altered))
    for bad in broken:
        path.write_bytes(bad)
        with pytest.raises(
            BrokenFileError, match=r"state\.pt was cut .* altered.*; dig"
        ):
            files.load_tensors(path, "dig deeper")


def test_arrays_round_trip(tmp_path):
    path = tmp_path / "test.npz"
    logits = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    files.save_arrays(path, logits=logits, labels=np.arange(3))
    back = files.load_arrays(path)
    assert back.keys() == {"logits", "labels"}
    np.testing.assert_array_equal(back["logits"], logits)


def test_a_truncated_or_altered_array_file_never_gives_other_numbers(tmp_path):
    """A byte that carries no content (a date) may change; any other is found."""
    path = tmp_path / "test.npz"
    logits = np.random.default_rng(0).normal(size=20)
    files.save_arrays(path, logits=logits)
    content = path.read_bytes()
    cut = [content[:n] for n in range(0, len(content), 5)]
    altered = [
        content[:i] + bytes([content[i] ^ bit]) + content[i + 1 :]
        for i in range(len(content))
        for bit in [0x01 if i % 2 else 0x80]
    ]
    found = [error for bad in cut + altered for error in complaints(path, bad, logits)]
    assert len(found) > 0.8 * len(cut + altered)
    for error in found:
        assert "test.npz was cut short or altered" in error
        assert "delete it and run again" in error


def complaints(path, content, logits):
    """What loading says of such a file; nothing if it gives the right numbers."""
    path.write_bytes(content)
    try:
        loaded = files.load_arrays(path)
    except BrokenFileError as error:
        return [str(error)]
    np.testing.assert_array_equal(loaded["logits"], logits)
    return []


def test_json_files_end_with_a_newline_and_are_indented(tmp_path):
    """So that they can be read, and compared line by line."""
    files.write_json(tmp_path / "x.json", {"a": 1, "b": 2})
    text = (tmp_path / "x.json").read_text()
    assert text.endswith("}\n")
    assert len(text.splitlines()) == 4
    assert json.loads(text) == {"a": 1, "b": 2}
