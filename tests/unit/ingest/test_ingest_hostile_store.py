"""What lies on disk or comes from the bus and is not what it should be: named, left out, and nothing else is lost."""

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import orjson
import polars as pl
import pytest
from hypothesis import example, given

from libs.common.bus import topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from services.ingest.spool import Spool
from services.ingest.store.coldfiles import ColdUnavailable, LocalFiles, reading
from services.ingest.usecases.history import _report
from services.ingest.usecases.rejected import _rejected
from services.ingest.usecases.topology import Topology
from tests.unit.ingest.ingest_fakes import site, topology

NOW = datetime(2026, 11, 21, 5, tzinfo=UTC)
READING = {
    "device_id": "m-1", "site_id": "site-1", "source_time": "2026-11-21T05:00:00Z", "driver": "test",
    "received_at": "2026-11-21T05:00:00Z", "points": {"voltage_a": 230.0},
}  # fmt: skip
JUNK = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
    | st.integers(-(2**63), 2**64 - 1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


class TestColdFiles:
    """Parquet files of old days."""

    @pytest.mark.parametrize(
        "failure",
        [
            pl.exceptions.InvalidOperationError("unable to decode the encoded schema"),
            pl.exceptions.PanicException("range end index 750 out of range for slice of length 128"),
            FileNotFoundError("gone"),
        ],
        ids=lambda failure: type(failure).__name__,
    )
    def test_whatever_the_library_says_of_a_damaged_file_it_is_the_history_that_is_not_available(
        self, failure: BaseException
    ) -> None:
        with pytest.raises(ColdUnavailable, match="2026-10-01"), reading("2026-10-01"):
            raise failure

    def test_damaged_file_is_named_or_read_and_never_anything_else(self, tmp_path: Path) -> None:
        """Both panicked the library or came as another error than the one that was expected."""
        path = tmp_path / "day.parquet"
        pl.DataFrame({"device": [1, 2, 3] * 300, "name": ["x", "y", "z"] * 300}).write_parquet(path)
        whole = path.read_bytes()
        chance = random.Random(20261121)  # bytes to be damaged, no secrets
        outcomes = set()
        for number in range(24):
            damaged = bytearray(whole[: chance.randrange(len(whole))] if number % 3 == 0 else whole)
            for _ in range(1 + number % 8):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            path.write_bytes(damaged)
            try:
                with reading("day.parquet"):
                    LocalFiles(tmp_path).scan("day.parquet").collect()
                outcomes.add("read")
            except ColdUnavailable:
                outcomes.add("named")
        assert "named" in outcomes


class TestSpool:
    """The folder of the spool."""

    async def kept(self, folder: Path) -> list[bytes]:
        async with Spool(folder, max_bytes=1 << 20, segment_bytes=64, wall=NOW.timestamp) as spool:
            return [record.payload for record in await spool.read(100)]

    async def filled(self, folder: Path) -> list[bytes]:
        payloads = [b"%d" % number for number in range(5)]
        async with Spool(folder, max_bytes=1 << 20, segment_bytes=64, wall=NOW.timestamp) as spool:
            for payload in payloads:
                await spool.append([payload])
        return payloads

    @pytest.mark.parametrize("cursor", ["99", "-1", "1e9", "", "\0\0\0\0", "9" * 40, "\N{SUPERSCRIPT TWO}"])
    async def test_damaged_cursor_loses_nothing(self, tmp_path: Path, cursor: str) -> None:
        payloads = await self.filled(tmp_path)
        (tmp_path / "cursor").write_text(cursor)
        assert await self.kept(tmp_path) == payloads

    @pytest.mark.parametrize("cursor", ["9" * 40, str(1 << 63)])
    async def test_empty_spool_with_an_absurd_cursor_takes_records(self, tmp_path: Path, cursor: str) -> None:
        (tmp_path / "cursor").write_text(cursor)
        assert await self.filled(tmp_path) == await self.kept(tmp_path)

    @pytest.mark.parametrize("name", ["copy.seg", "00000000000000000000 (1).seg", "-1.seg"])
    async def test_file_that_somebody_put_there_is_left_alone_and_stops_no_start(
        self, tmp_path: Path, name: str
    ) -> None:
        payloads = await self.filled(tmp_path)
        (tmp_path / name).write_bytes(b"what is this")
        assert await self.kept(tmp_path) == payloads
        assert (tmp_path / name).exists()


def received(topic: str, value: bytes | None) -> Received:
    return Received(topic=topic, partition=0, offset=0, key="k", value=value, headers=(), appended_at=NOW)


def written(payload: Any) -> bytes | None:
    try:
        return orjson.dumps(payload)
    except TypeError:  # a surrogate, or a number of more than 64 bits
        return None


class TestMessages:
    """Messages of the topics that ingest reads; ``control.commands`` has its own in test_ingest_waking.py."""

    @given(
        st.one_of(
            st.binary(max_size=60),
            st.dictionaries(st.sampled_from(sorted(READING)), JUNK).map(
                lambda changes: written({**READING, **changes})
            ),
        )
    )
    @example(orjson.dumps({**READING, "quality": ["suspect"]}))
    @example(orjson.dumps({**READING, "source_time": "0001-01-01T00:00:00+14:00"}))
    def test_reading_is_stored_or_poison(self, value: bytes | None) -> None:  # fmt: skip
        try:
            _report(received(topics.READINGS, value))
        except PoisonMessage:
            pass

    @given(st.binary(max_size=60) | JUNK.map(written))
    def test_rejection_is_kept_or_poison(self, value: bytes | None) -> None:
        try:
            _rejected(received(topics.REJECTED, value))
        except PoisonMessage:
            pass

    @given(st.binary(max_size=60) | JUNK.map(written))
    async def test_registry_record_that_is_none_leaves_the_registry_as_it_is(self, value: bytes | None) -> None:
        known: Topology = topology(site())
        await known.handle([received(topics.REGISTRY, value)])
        assert known.index.record(site().kind_of, "site-1") is not None
