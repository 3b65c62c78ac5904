"""What the readers of ``control.events`` make of an ON's first events: nothing rests on which of them comes first."""

import pytest

from libs.common.bus import topics
from libs.common.bus.port import Received
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent
from libs.common.ids import CommandId, DeviceId, LoadId, SiteId
from libs.common.testing.clock import FakeClock
from services.alarm import bus as alarm
from services.carbon import bus as carbon

AT = FakeClock().now()


def event(state: CommandState) -> ControlEvent:
    return ControlEvent(
        site_id=SiteId("s-1"), state=state, at=AT, reason="", command_id=CommandId("c-1"), load_id=LoadId("a"),
        device_id=DeviceId("brk-a"), action=CommandAction.CLOSE,
    )  # fmt: skip


def received(one: ControlEvent) -> Received:
    return Received(topics.CONTROL_EVENTS, 0, 0, one.site_id, one.to_json(), (), AT)


@pytest.mark.parametrize("state", [CommandState.SCHEDULED, CommandState.DISPATCHED])
def test_that_an_on_begins_says_nothing_of_its_load(state: CommandState) -> None:
    assert alarm.read_control(received(event(state))) is None
    assert carbon.switching_of(event(state)) is None


def test_that_it_is_proven_does() -> None:
    assert alarm.read_control(received(event(CommandState.SUCCEEDED))) is not None
    assert carbon.switching_of(event(CommandState.SUCCEEDED)) is not None
