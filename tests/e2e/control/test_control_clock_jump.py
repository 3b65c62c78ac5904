"""The clock of a host with control and the watchdog on it is set by an hour while a load is off: real processes.

libfaketime stands for the administrator: it reads the offset from a file, and leaves the monotonic clock alone, as
the kernel does. The test's own clock, the field's and the database's stay as they are.
"""

from pathlib import Path

import pytest

from tests.conftest import missing
from tests.e2e.control.test_control_kills import town
from tests.integration.control.fake_ingest import until

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(240)]


def faketime() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        missing("libfaketime is not installed")
    return found[0]


@pytest.mark.parametrize(("jump", "length_s"), [("-1h", 15.0), ("+1h", 3000.0)])
async def test_a_load_that_is_off_wakes_no_later_for_it(tmp_path: Path, jump: str, length_s: float) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0")
    host = {
        "LD_PRELOAD": str(faketime()), "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    async with town(tmp_path, host=host) as found:
        breaker = found.field.breakers["aau-1"]
        await found.plan("aau-1", start_in_s=5, length_s=length_s)
        await until(lambda: not breaker.closed, "off", timeout_s=60)
        offset.write_text(jump)
        # By the wall clock the window now has more than an hour to go, as it had before the one that jumps ahead.
        await until(lambda: breaker.closed, "awake", timeout_s=120)
        assert len(breaker.switched) >= 2
