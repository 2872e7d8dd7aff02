from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavedil.core.gridding import audit_gridding
from wavedil.core.schedule import doubling, format_schedule, hybrid, parse_schedule, sawtooth
from wavedil.errors import WavedilError


@pytest.mark.parametrize(
    ("schedule", "dilations"),
    [
        ("1..8", (1, 2, 4, 8)),
        ("1..4 x2", (1, 2, 4, 1, 2, 4)),
        ("1..4×2", (1, 2, 4, 1, 2, 4)),
        ("3..12", (3, 6, 12)),
        ("1,2,5 x2", (1, 2, 5, 1, 2, 5)),
        (" 1 2  5 ", (1, 2, 5)),
        ("1, 1..4, 1", (1, 1, 2, 4, 1)),
        ("1..4 x2 + 1,2,5", (1, 2, 4, 1, 2, 4, 1, 2, 5)),
        ("[1, 2, 5]", (1, 2, 5)),
        ("7", (7,)),
        ("4..4", (4,)),
        ("[1,2] x2", (1, 2, 1, 2)),
        ("([1,2] x2 + 7) x2 + 3", (1, 2, 1, 2, 7, 1, 2, 1, 2, 7, 3)),
        ("sawtooth(1..512, 3)", doubling(512, repeats=3)),
        ("sawtooth([1, 2, 5], repeats=2)", (1, 2, 5, 1, 2, 5)),
        ("hybrid(6, 63)", hybrid(6, 63)),
        ("hybrid(3, kernel_size=2, field=8) x2 + 9", (1, 2, 4, 1, 2, 4, 9)),
        ("1, hybrid(3, 17)x2", (1, 1, 2, 5, 1, 1, 2, 5)),
        ("sawtooth(hybrid(3, 17), 2)", (1, 2, 5, 1, 2, 5)),
        ("doubling(4) doubling()", (1, 2, 4, *doubling())),
        (4, (4,)),
        ([1, 2, 5], (1, 2, 5)),
        (np.array([1, 2]), (1, 2)),
        (range(1, 4), (1, 2, 3)),
    ],
)
def test_parse(schedule, dilations):
    parsed = parse_schedule(schedule)
    assert parsed == dilations
    assert all(type(d) is int for d in parsed)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("", "empty"),
        ("x3", "empty"),
        ("1,2 +", "empty"),
        ([], "empty"),
        ("0", "expected an integer from 1"),
        ("-4", "expected an integer from 1"),
        ([1, -2], "layer 2"),
        ([1, 2.0], "expected an integer from 1 to 16777216"),
        ([True], "expected an integer from 1 to 16777216"),
        ([[1, 2]], "expected an integer from 1 to 16777216"),
        (None, "expected integers or text"),
        (b"12", "expected integers or text"),
        ("1,two", "'two' is not an integer"),
        ("1..", "not an integer"),
        ("1,2 x0", "repeats is 0: expected an integer from 1 to 10000"),
        ("1..500", r"1\.\.256 or 1\.\.512"),
        ("3..100", r"3\.\.96 or 3\.\.192"),
        ("8..1", "list falling dilations"),
        (2**24 + 1, "is 16777217: expected an integer from 1 to 16777216"),
        ("9" * 5000, "dilation is 999999999999...: expected an integer from 1 to 16777216"),
        ("1 x10001", "10001: expected an integer from 1 to 10000"),
        ("1..512 x1001", "10010 layers"),
        ("fib(9)", "'fib' is not a known schedule; expected one of .*doubling, .*hybrid, .*sawtooth"),
        ("hybrid(6)", "missing a required argument: 'field'; the schedule is hybrid"),
        ("hybrid(6, 63, colour=1)", "unexpected keyword argument 'colour'"),
        ("hybrid(3, 63)", r"hybrid: field is 63: 3 layers of kernel 3 reach 7 to 27"),
        ("hybrid(__import__)", "'__import__' is not an integer"),
        ("hybrid(3, 17", "brackets are not balanced"),
        ("1)", "brackets are not balanced"),
        ("(" * 9 + "1" + ")" * 9, "nested deeper than 8"),
        ([1] * 10_001, "10001 layers"),
    ],
)
def test_parse_errors(schedule, message):
    with pytest.raises(WavedilError, match=message):
        parse_schedule(schedule)


def test_doubling_and_sawtooth():
    assert doubling() == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    assert doubling(4, repeats=2) == sawtooth("1..4", 2) == (1, 2, 4, 1, 2, 4)
    with pytest.raises(WavedilError, match=r"1\.\.256 or 1\.\.512"):
        doubling(500)
    with pytest.raises(WavedilError, match="repeats is 0: expected"):
        doubling(4, repeats=0)


# Few distinct rates, so that doubling runs and repeats occur.
groups = st.lists(st.sampled_from([1, 2, 4, 8, 16, 5]), min_size=1, max_size=6)
repeated = st.tuples(groups, st.integers(1, 4)).map(lambda pair: pair[0] * pair[1])
schedules = st.lists(repeated, min_size=1, max_size=4).map(lambda parts: sum(parts, []))


@given(schedules)
def test_format_parses_back(dilations):
    text = format_schedule(dilations)
    assert parse_schedule(text) == tuple(dilations)
    assert len(text) <= len(",".join(map(str, dilations)))


@pytest.mark.parametrize(
    "text", ["1..512 x3", "1,2,5 x4", "1..512,1..512,1,2,5", "1,1..16,1", "7", "1 x7", "1 x2000", "1..4 x3"]
)
def test_format_is_short(text):
    assert format_schedule(text) == text


@pytest.mark.parametrize(("args", "rates"), [((3, 17), (1, 2, 5)), ((3, 27), (1, 3, 9)), ((3, 8, 2), (1, 2, 4))])
def test_hybrid_examples(args, rates):
    assert hybrid(*args) == rates


@given(st.integers(2, 6), st.integers(2, 7), st.data())
def test_hybrid_has_the_field_without_holes_and_passes_the_rule(kernel, layers, data):
    widest = hybrid_limit(kernel, layers)
    total = data.draw(st.integers(layers, widest))
    rates = hybrid(layers, 1 + (kernel - 1) * total, kernel)
    assert all(b <= 3 * a for a, b in pairwise(rates))
    audit = audit_gridding(rates, kernel)
    assert (audit.receptive_field, audit.layers, audit.holes) == (1 + (kernel - 1) * total, layers, 0)
    assert audit.hdc_passes


@pytest.mark.parametrize(("layers", "total"), [(4, 37), (5, 108)])
def test_hybrid_rates_at_most_triple(layers, total):
    """Totals where rounding leaves a remainder that the last rate alone cannot take."""
    rates = hybrid(layers, 1 + 4 * total, kernel_size=5)
    assert sum(rates) == total and all(b <= 3 * a for a, b in pairwise(rates))


def hybrid_limit(kernel, layers):
    """Largest sum of rates that are at most three times the previous rate and the field before them."""
    rates = [1]
    while len(rates) < layers:
        rates.append(min(1 + (kernel - 1) * sum(rates), 3 * rates[-1]))
    return sum(rates)


@pytest.mark.parametrize("args", [(3, 63), (3, 5), (3, 17, 1), (0, 17)])
def test_hybrid_errors(args):
    with pytest.raises(WavedilError):
        hybrid(*args)
