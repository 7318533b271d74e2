"""Bit packing: against one big integer, at every width and around every byte's edge."""

import doctest

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from prunefleet_shared import bit_packing
from prunefleet_shared.bit_packing import MAX_BITS, num_packed_bytes, pack_bits, padding_is_zero, unpack_bits

WIDTHS = range(1, MAX_BITS + 1)


def one_integer(values, bits):
    whole = sum(int(value) << bits * i for i, value in enumerate(values))
    return whole.to_bytes((len(values) * bits + 7) // 8, "little")


@pytest.mark.parametrize("bits", WIDTHS)
def test_largest_and_smallest_values_in_every_column(bits):
    largest = 2**bits - 1
    for num_values in (1, 7, 8, 9, 16, 17):
        for place in range(num_values):
            values = np.zeros(num_values, dtype=np.int64)
            values[place] = largest
            packed = pack_bits(values, bits)
            assert packed == one_integer(values, bits)
            assert unpack_bits(packed, bits, num_values).tolist() == values.tolist()
        full = np.full(num_values, largest)
        assert pack_bits(full, bits) == one_integer(full, bits)
        assert unpack_bits(pack_bits(full, bits), bits, num_values).tolist() == full.tolist()


@settings(deadline=None)
@given(st.integers(1, MAX_BITS).flatmap(lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1)))))
def test_there_and_back(drawn):
    bits, values = drawn
    packed = pack_bits(np.array(values, dtype=np.int64), bits)
    assert packed == one_integer(values, bits)
    assert len(packed) == num_packed_bytes(len(values), bits)
    assert unpack_bits(packed, bits, len(values)).tolist() == values
    assert not values or padding_is_zero(packed, bits, len(values))


@pytest.mark.parametrize("bits", [1, 3, 7, 8, 13, 16, 17, 48])
@pytest.mark.parametrize("num_values", [1, 2, 3, 5, 8, 9])
def test_every_padding_bit_is_noticed_and_no_other(bits, num_values):
    packed = pack_bits(np.zeros(num_values, dtype=np.int64), bits)
    for place in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[place // 8] |= 1 << place % 8
        assert padding_is_zero(bytes(flipped), bits, num_values) == (place < bits * num_values)


def test_the_examples_of_the_module():
    assert doctest.testmod(bit_packing).failed == 0
