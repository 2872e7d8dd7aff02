"""The arithmetic coder returns every sequence of decisions, in about as many bits as its probabilities say."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavedil.audio.compression.arithmetic import ONE, Decoder, Encoder
from wavedil.errors import WavedilError

PROBABILITY = st.one_of(st.integers(1, ONE - 1), st.sampled_from([1, 2, ONE // 2, ONE - 2, ONE - 1]))


def encoded(pairs):
    encoder = Encoder()
    for decision, probability in pairs:
        encoder.encode(decision, probability)
    return encoder.finish()


def decoder_after(data, pairs):
    decoder = Decoder(data)
    for _, probability in pairs:
        decoder.decode(probability)
    return decoder


@settings(max_examples=200)
@given(pairs=st.lists(st.tuples(st.booleans(), PROBABILITY), max_size=400))
def test_decisions_return(pairs):
    data = encoded(pairs)
    decoder = Decoder(data)
    assert [decoder.decode(probability) for _, probability in pairs] == [decision for decision, _ in pairs]
    assert decoder.is_at_end() and not decoder_after(data + b"\0", pairs).is_at_end()
    bits = sum(-math.log2((p if decision else ONE - p) / ONE) for decision, p in pairs)
    assert 8 * len(data) <= 1.002 * bits + 40


def test_the_end_of_the_data_is_noticed():
    decoder = Decoder(b"")
    with pytest.raises(WavedilError, match="too early"):
        for _ in range(1000):
            decoder.decode(ONE // 2)
