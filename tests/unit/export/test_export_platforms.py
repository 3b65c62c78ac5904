"""Questions to the device platform: what its answers mean, and that nothing is guessed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.outgoing import AddressGuard, GuardedClient
from libs.common.testing.clock import FakeClock
from libs.fieldsim.aep.platform import DevicePlatform
from services.export.platforms.aep import (
    AepClient,
    DevicePlatformUnavailable,
    UnknownProduct,
    read_commands,
    read_device,
    read_history,
)

NOW = datetime(2026, 3, 1, 4, tzinfo=UTC)
MILLIS = int(NOW.timestamp() * 1000)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["result", "list", "deviceStatusList", "netStatus", "timestamp", "ttl", "commandStatus"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["result", "deviceStatusList", "code"]), JSON))
def test_whatever_is_answered_gives_facts_of_their_kind_or_none(answer: dict[str, Any]) -> None:
    for read in (read_device, read_history, read_commands):
        facts = read(answer, NOW)
        assert set(facts) <= {"platform_online", "platform_last_report_at", "platform_command_state"}
        if "platform_last_report_at" in facts:
            assert datetime.fromisoformat(str(facts["platform_last_report_at"])) <= NOW + timedelta(minutes=5)


@pytest.mark.parametrize(
    ("net", "facts"), [(1, {"platform_online": True}), ("2", {"platform_online": False}), (None, {}), (3, {})]
)
def test_online_is_what_the_platform_says_it_is(net: object, facts: dict[str, bool]) -> None:
    assert read_device({"result": {"netStatus": net}}, NOW) == facts


def test_the_youngest_report_counts_and_one_from_the_future_does_not() -> None:
    rows = [{"timestamp": MILLIS - 60_000}, {"timestamp": str(MILLIS - 5_000)}, {"timestamp": MILLIS + 900_000}, {}]
    assert read_history({"deviceStatusList": rows}, NOW) == {"platform_last_report_at": "2026-03-01T03:59:55+00:00"}


@pytest.mark.parametrize(
    ("command", "state"),
    [
        ({"commandStatus": 4}, "COMPLETED"),
        ({"commandStatus": "999"}, "FAILED"),
        ({"commandStatus": 999, "resultCode": "EXPIRED"}, "EXPIRED"),
        ({"commandStatus": 1, "createTime": MILLIS - 61_000, "ttl": 60}, "EXPIRED"),
        ({"commandStatus": 1, "createTime": MILLIS - 59_000, "ttl": 60}, "SAVED"),
        ({"commandStatus": 5}, None),
    ],
)
def test_a_command_that_waited_longer_than_it_may_has_expired(command: dict[str, Any], state: str | None) -> None:
    earlier = {"commandStatus": 4, "createTime": MILLIS - 900_000}
    found = read_commands({"result": {"list": [earlier, {"createTime": MILLIS, **command}]}}, NOW)
    assert found == ({} if state is None else {"platform_command_state": state})


class TestCalls:
    """Against the simulated platform, which checks version, signature and time of every call."""

    async def ask(
        self, platform: DevicePlatform, clock: FakeClock, *, calls: int = 100, product: str = "10000001"
    ) -> Any:
        await platform.start()
        try:
            async with GuardedClient(AddressGuard(["127.0.0.0/8"])) as http:
                account = platform.account
                client = AepClient(
                    url=platform.url,
                    app_key=account.app_key,
                    app_secret=account.app_secret,
                    products={account.product: account.master_key},
                    http=http,
                    clock=clock,
                    timeout_s=20.0,
                    calls_per_minute=calls,
                )
                return await client.device(product, "dev0001")
        finally:
            await platform.stop()

    async def test_every_call_is_signed_by_the_platform_s_clock(self) -> None:
        clock = FakeClock(NOW)
        platform = DevicePlatform(clock=clock, clock_offset_s=7200.0)
        platform.remember("dev0001", MILLIS - 5_000, {"voltage": 2301})
        found = await self.ask(platform, clock)
        assert (platform.findings, found.missing) == ([], ())
        assert found.facts == {"platform_online": True, "platform_last_report_at": "2026-03-01T03:59:55+00:00"}

    async def test_a_refusal_is_no_answer_and_names_no_secret(self) -> None:
        clock = FakeClock(NOW)
        platform = DevicePlatform(clock=clock)
        platform.refuse_all = 1001
        with pytest.raises(DevicePlatformUnavailable) as caught:
            await self.ask(platform, clock)
        account = platform.account
        assert account.app_secret not in str(caught.value)
        assert account.master_key not in str(caught.value)

    async def test_no_more_is_called_than_was_agreed(self) -> None:
        clock = FakeClock(NOW)
        found = await self.ask(DevicePlatform(clock=clock), clock, calls=2)
        assert found.missing == ("commands",)

    async def test_a_product_that_is_not_ours_is_not_asked_for(self) -> None:
        clock = FakeClock(NOW)
        platform = DevicePlatform(clock=clock)
        with pytest.raises(UnknownProduct):
            await self.ask(platform, clock, product="1")
        assert platform.requests == 0
