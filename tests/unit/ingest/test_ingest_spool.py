"""The spool: durable before anyone is told, in order, bounded, and whole after any crash."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.spool import Spool, SpoolBusy, SpoolFull, encode_record, scan

NOW = 1_772_366_400.0


def spool(folder: Path, *, max_bytes: int = 1 << 20, segment_bytes: int = 4096) -> Spool:
    return Spool(folder, max_bytes=max_bytes, segment_bytes=segment_bytes, wall=lambda: NOW)


def segments(folder: Path) -> list[Path]:
    return list(folder.glob("*.seg"))


async def contents(found: Spool) -> list[bytes]:
    return [record.payload for record in await found.read(1_000_000)]


async def test_records_come_back_in_order_until_they_are_read(tmp_path: Path) -> None:
    async with spool(tmp_path) as found:
        await found.append([b"a", b"b"])
        await found.append([b"c"])
        records = await found.read(2)
        assert [(record.sequence, record.payload, record.accepted_at) for record in records] == [
            (0, b"a", NOW),
            (1, b"b", NOW),
        ]
        await found.advance(2)
        assert (await contents(found), found.records) == ([b"c"], 1)


async def test_what_was_not_read_is_there_after_a_restart(tmp_path: Path) -> None:
    async with spool(tmp_path, segment_bytes=64) as found:
        for i in range(20):
            await found.append([b"%d" % i])
        await found.advance(7)
    async with spool(tmp_path, segment_bytes=64) as again:
        assert await contents(again) == [b"%d" % i for i in range(7, 20)]
        await again.append([b"new"])
        assert (await contents(again))[-1] == b"new"


async def test_segments_that_were_read_leave_the_disk(tmp_path: Path) -> None:
    async with spool(tmp_path, segment_bytes=64) as found:
        await found.append([b"x" * 50])
        await found.append([b"y" * 50])
        assert found.size_bytes > 0
        await found.advance(2)
        assert (found.size_bytes, segments(tmp_path)) == (0, [])
        await found.append([b"z"])
        assert [record.sequence for record in await found.read(9)] == [2]


async def test_full_spool_refuses_all_of_a_call_and_takes_again_when_drained(tmp_path: Path) -> None:
    async with spool(tmp_path, max_bytes=300) as found:
        await found.append([b"x" * 100])
        with pytest.raises(SpoolFull):
            await found.append([b"y" * 100, b"z" * 100])
        assert await contents(found) == [b"x" * 100]
        await found.advance(1)
        await found.append([b"y" * 100])


async def test_calls_at_the_same_time_are_all_durable_and_in_order_of_the_calls(tmp_path: Path) -> None:
    async with spool(tmp_path) as found:
        await asyncio.gather(*(found.append([b"%03d" % i]) for i in range(100)))
        assert await contents(found) == [b"%03d" % i for i in range(100)]


async def test_folder_belongs_to_one_process(tmp_path: Path) -> None:
    async with spool(tmp_path):
        with pytest.raises(SpoolBusy):
            async with spool(tmp_path):
                pass


async def test_disk_that_takes_nothing_refuses_and_does_not_damage_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with spool(tmp_path) as found:
        await found.append([b"before"])
        with monkeypatch.context() as broken:
            broken.setattr("services.ingest.spool.os.fdatasync", _no_space)
            with pytest.raises(SpoolFull, match="disk full"):
                await found.append([b"lost"])
        await found.append([b"after"])
        assert await contents(found) == [b"before", b"after"]


def _no_space(_: int) -> None:
    raise OSError(28, "No space left on device")


payloads = st.lists(st.binary(max_size=60), min_size=1, max_size=12)


@given(payloads, st.data())
@settings(max_examples=200)
def test_file_cut_anywhere_holds_every_whole_record_before_the_cut(found: list[bytes], data: st.DataObject) -> None:
    records = [encode_record(i, NOW, payload) for i, payload in enumerate(found)]
    blob = b"".join(records)
    cut = data.draw(st.integers(0, len(blob)))
    whole, size = 0, 0
    while whole < len(records) and size + len(records[whole]) <= cut:
        size += len(records[whole])
        whole += 1
    assert [record.payload for _, record in scan(blob[:cut])] == found[:whole]


@given(payloads, st.data())
@settings(max_examples=200)
def test_damaged_byte_costs_only_the_record_it_is_in(found: list[bytes], data: st.DataObject) -> None:
    records = [encode_record(i, NOW, payload) for i, payload in enumerate(found)]
    hit = data.draw(st.integers(0, len(records) - 1))
    at = data.draw(st.integers(0, len(records[hit]) - 1))
    damaged = bytearray(records[hit])
    damaged[at] ^= data.draw(st.integers(1, 255))
    blob = b"".join([*records[:hit], bytes(damaged), *records[hit + 1 :]])
    left = {record.sequence: record.payload for _, record in scan(blob)}
    assert all(left.get(i) == payload for i, payload in enumerate(found) if i != hit)
    assert hit not in left


WRITER = """
import asyncio, sys
from pathlib import Path
from services.ingest.spool import Spool

async def main():
    async with Spool(Path(sys.argv[1]), max_bytes=1 << 26, segment_bytes=20_000, wall=lambda: 0.0) as spool:
        number = 0
        while True:
            await spool.append([b"%d" % number, b"x" * (number % 700)])
            print(number, flush=True)
            number += 1

asyncio.run(main())
"""


async def test_everything_that_was_accepted_survives_kill_9(tmp_path: Path) -> None:
    writer = subprocess.Popen(  # noqa: ASYNC220  # the test needs a process that it can kill
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    accepted = -1
    for line in writer.stdout:
        accepted = int(line)
        if accepted >= 300:
            writer.send_signal(signal.SIGKILL)
            break
    for line in writer.stdout:  # what it had said before it died
        accepted = int(line)
    writer.wait(10)
    writer.stdout.close()
    async with spool(tmp_path) as found:
        numbers = [int(payload) for payload in (await contents(found))[::2]]
    assert numbers[: accepted + 1] == list(range(accepted + 1))
    assert len(numbers) <= accepted + 2
