"""Small integers side by side: ``bits`` bits each, little-endian, no gaps, padded with zeros to whole bytes.

Value 0 fills the lowest bits of byte 0. Eight values always fill exactly ``bits`` bytes, so eight strided columns are
packed at a time: a vector of 30,000 takes a fraction of a millisecond, which a coordinator does once per device.

>>> import numpy as np
>>> pack_bits(np.array([1, 2, 3]), 3).hex()
'd100'
>>> unpack_bits(bytes.fromhex("d100"), 3, 3).tolist()
[1, 2, 3]
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

MAX_BITS = 48
"""So that a value, shifted by up to seven bits, fits 64."""


def num_packed_bytes(num_values: int, bits: int) -> int:
    """Size of ``num_values`` packed values."""
    return (num_values * bits + 7) // 8


def pack_bits(values: npt.NDArray[np.integer], bits: int) -> bytes:
    """Pack non-negative ``values``, each below ``2**bits``; what is above is the caller's bug and spoils neighbours."""
    rows, dtype = -(-len(values) // 8), _word_type(bits)
    words_R8 = np.zeros((rows, 8), dtype=dtype)
    words_R8.ravel()[: len(values)] = values
    packed_RB = np.zeros((rows, bits), dtype=np.uint8)
    for column, first_byte, shift, num_bytes in _columns(bits):
        shifted_R = np.left_shift(words_R8[:, column], shift, dtype=dtype)
        for byte in range(num_bytes):
            packed_RB[:, first_byte + byte] |= np.right_shift(shifted_R, 8 * byte, dtype=dtype).astype(np.uint8)
    return packed_RB.tobytes()[: num_packed_bytes(len(values), bits)]


def unpack_bits(packed: bytes, bits: int, num_values: int) -> npt.NDArray[np.unsignedinteger]:
    """Undo :func:`pack_bits`; ``packed`` must be as long as it makes it. Padding bits are ignored here."""
    rows, dtype = -(-num_values // 8), _word_type(bits)
    packed_RB = np.frombuffer(packed.ljust(rows * bits, b"\0"), dtype=np.uint8).reshape(rows, bits)
    words_R8 = np.empty((rows, 8), dtype=dtype)
    for column, first_byte, shift, num_bytes in _columns(bits):
        word_R = packed_RB[:, first_byte].astype(dtype)
        for byte in range(1, num_bytes):
            np.bitwise_or(word_R, np.left_shift(packed_RB[:, first_byte + byte], 8 * byte, dtype=dtype), out=word_R)
        np.right_shift(word_R, shift, out=word_R)
        np.bitwise_and(word_R, (1 << bits) - 1, out=words_R8[:, column])
    return words_R8.ravel()[:num_values]


def padding_is_zero(packed: bytes, bits: int, num_values: int) -> bool:
    """Whether the bits after the last value are zero: else one vector had several spellings."""
    used = num_values * bits % 8
    return used == 0 or packed[-1] >> used == 0


def _word_type(bits: int) -> type[np.unsignedinteger]:
    """The smallest type that holds a value shifted by up to seven bits."""
    return np.uint32 if bits + 7 <= 32 else np.uint64


def _columns(bits: int) -> Iterator[tuple[int, int, int, int]]:
    """For each of eight values: its column, first byte, shift within it, and number of bytes that it touches."""
    for column in range(8):
        first_byte, shift = divmod(column * bits, 8)
        yield column, first_byte, shift, (shift + bits + 7) // 8
