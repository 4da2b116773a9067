"""A file of tensors says by its name what is in it, is read once to believe it, and can be read when it is gone."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch

from sparsity.cache.entry import SUFFIX, Entry, content_of, entries, write

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(0), "c": torch.tensor([True, False])}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path, "key", content_of(TENSORS, {"of": "a test"}))


@pytest.fixture
def digests(monkeypatch) -> list[int]:
    """Grows whenever a file is read to its end."""
    seen, inner = [], hashlib.file_digest

    def counted(file, name):
        seen.append(file.fileno())
        return inner(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return seen


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def test_what_was_written_is_read(path):
    [entry] = entries(path.parent, "key")
    assert entry.about == {"of": "a test"}
    path.unlink()  # as another process that needs room may do
    found = entry.tensors()
    entry.close()
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor)


def test_what_is_read_is_its_reader_s_own(path):
    [entry] = entries(path.parent, "key")
    entry.tensors()["a"].zero_()
    assert torch.equal(entry.tensors()["a"], TENSORS["a"])


def test_a_sound_file_is_believed_until_it_changes(path, digests):
    for _ in range(3):
        [entry] = entries(path.parent)
        entry.touch()
        entry.close()
    assert len(digests) == 1
    before = path.stat().st_mtime_ns
    flip(path)
    os.utime(path, ns=(before + 10**9, before + 10**9))  # clocks of files are coarse
    assert list(entries(path.parent)) == []
    assert len(digests) == 2
    assert list(path.parent.glob(f"*{SUFFIX}")) == []


def test_using_a_file_is_not_vouching_for_it(path, digests):
    flip(path)
    entry = Entry(path)
    entry.touch()
    assert entry.damage is not None
    entry.close()
    assert len(digests) == 1
