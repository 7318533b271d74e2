"""Sizes of memory, read and said."""

from __future__ import annotations

import pytest

from prunefleet_edge.byte_sizes import bytes_in_words, parse_bytes
from prunefleet_shared.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("1B", 1), ("512MB", 512_000_000), ("512 mb", 512_000_000), ("2GiB", 2**31), ("1.5kB", 1500), (" 1KiB ", 1024)],
)
def test_sizes_are_read(text: str, num_bytes: int) -> None:
    assert parse_bytes(text, "memory-limit") == num_bytes


@pytest.mark.parametrize("text", ["", "512", "MB", "0MB", "-1MB", "1e9B", "512M", "1.2345GB", "٣MB", "lots"])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="memory-limit: expected a size such as 512MB"):
        parse_bytes(text, "memory-limit")


@pytest.mark.parametrize(
    ("num_bytes", "words"), [(917, "917 B"), (34_100, "34.1 kB"), (2_449_999, "2.4 MB"), (3_000_000_000, "3.0 GB")]
)
def test_sizes_are_said(num_bytes: int, words: str) -> None:
    assert bytes_in_words(num_bytes) == words
