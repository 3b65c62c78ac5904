"""Clocks in registers: what is written is read again, whatever the layout, and what is no time is refused."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.profiles import ModbusClock
from services.ingest.domain.clock_registers import local_of, words_of

BYTES = ModbusClock(0x60, (("yy", "mo"), ("dd", "hh"), ("mi", "ss")), "Asia/Shanghai")
WORDS = ModbusClock(0, (("yyyy",), ("-", "mo"), ("dd",), ("-",), ("hh",), ("mi",), ("ss",)), "UTC")
TIMES = st.datetimes(min_value=datetime(2001, 1, 1), max_value=datetime(2099, 12, 31))  # noqa: DTZ001


def test_bytes_and_words() -> None:
    local = datetime(2026, 5, 20, 13, 7, 59)  # noqa: DTZ001
    assert words_of(BYTES, local) == [0x1A05, 0x140D, 0x073B]
    assert words_of(WORDS, local) == [2026, 5, 20, 0, 13, 7, 59]


@given(st.sampled_from([BYTES, WORDS]), TIMES)
def test_what_is_written_is_read_again(clock: ModbusClock, local: datetime) -> None:
    assert local_of(clock, words_of(clock, local)) == local.replace(microsecond=0)


@given(st.lists(st.integers(0, 0xFFFF), min_size=3, max_size=3))
def test_no_registers_raise_anything_else(words: list[int]) -> None:
    try:
        assert local_of(BYTES, words).year >= 2000
    except ValueError:
        pass


@pytest.mark.parametrize("words", [[0xFFFF] * 3, [0x1A0D, 0x140D, 0x073B], [0x1A05]])
def test_what_is_no_time_is_refused(words: list[int]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        local_of(BYTES, words)
