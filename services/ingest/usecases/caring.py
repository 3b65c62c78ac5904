"""Clocks and restarts: what keeps a device in order and moves no switch, each proven as far as the device lets it.

A clock is read after it was set, where the protocol tells it; a restarted device has to answer again. Nothing is sent
twice here: whether it is worth another attempt is decided by control.
"""

import logging
from collections.abc import Callable

from libs.common.clock import Clock
from libs.common.contracts.control import Evidence, Stage
from libs.common.errors import InvalidInput
from libs.common.profiles import RESTART, DeviceProfile
from services.ingest.drivers.port import BadAnswer, Care, DeviceRefused, DeviceSilent, LineDown, NotOffered
from services.ingest.settings import SwitchingSettings
from services.ingest.usecases.reach import Handle, Reach, Target
from services.ingest.usecases.switching import Hindered, Progress, Switched

logger = logging.getLogger(__name__)

CLOCK_WITHIN_S = 10.0
"""A clock that is off by less is right, unless the order says otherwise. [s]"""


LOOKED_AT = 3
"""Points that are read to see whether a device is back."""


class Caretaker:
    """Sets clocks and restarts devices."""

    def __init__(self, *, reach: Reach, clock: Clock, settings: SwitchingSettings) -> None:
        """Keep the way to devices, the time, and how long things may take."""
        self._reach = reach
        self._clock = clock
        self._settings = settings

    async def set_clock(self, target: Target, *, within_s: float) -> Switched:
        """Set a device's clock to ours and look what it shows then, where it tells."""
        return await self._clock_task(target, Care.SET_CLOCK, within_s)

    async def read_clock(self, target: Target, *, within_s: float) -> Switched:
        """Read a device's clock, and change nothing."""
        return await self._clock_task(target, Care.READ_CLOCK, within_s)

    async def _clock_task(self, target: Target, task: Care, within_s: float) -> Switched:
        try:
            cared = await self._reach.use(target, lambda handle: handle.care(task), alone=False)
        except (InvalidInput, LineDown) as exc:
            return _not_sent(exc)
        except DeviceRefused as exc:
            return Switched(Stage.FAILED, Evidence(answer=exc.message), exc.code, exc.message)
        except (DeviceSilent, BadAnswer) as exc:
            return Switched(Stage.UNKNOWN, Evidence(answer=exc.message), exc.code, exc.message)
        if cared.skew is None:
            return Switched(Stage.VERIFIED, Evidence(answer=cared.answer), "confirmed_only")
        skew_s = cared.skew.total_seconds()
        evidence = Evidence(feedback_value=skew_s, feedback_at=self._clock.now(), answer=cared.answer)
        if task is Care.READ_CLOCK or abs(skew_s) <= within_s:
            return Switched(Stage.VERIFIED, evidence)
        return Switched(Stage.FAILED, evidence, "not_followed")

    async def restart(
        self,
        target: Target,
        *,
        may_send: Callable[[], str | None],
        progress: Progress = lambda stage, evidence: None,
    ) -> Switched:
        """Restart a device, by the control of its profile or by its protocol, and wait until it answers again.

        ``may_send`` is asked with the line in hand, right before, and returns what forbids it.
        """

        async def send(handle: Handle) -> str:
            forbidden = may_send()
            if forbidden is not None:
                raise Hindered(forbidden)
            control = target.profile.controls.get(RESTART)
            if control is not None:
                return await handle.write(control, None)
            return (await handle.care(Care.RESTART)).answer

        confirmed = True
        try:
            answer = await self._reach.use(target, send, alone=False)
        except Hindered as exc:
            return Switched(Stage.REFUSED, Evidence(), exc.reason, sent=False)
        except (InvalidInput, LineDown) as exc:
            return _not_sent(exc)
        except DeviceRefused as exc:
            return Switched(Stage.FAILED, Evidence(answer=exc.message), exc.code, exc.message)
        except (DeviceSilent, BadAnswer) as exc:
            # Many a device restarts before it answers.
            confirmed, answer = False, exc.message
        progress(Stage.EXECUTED, Evidence(answer=answer))
        return await self._back(target, answer, confirmed=confirmed)

    async def _back(self, target: Target, answer: str, *, confirmed: bool) -> Switched:
        """Wait until a device answers again; without its confirmation it must have been away meanwhile."""
        control = target.profile.controls.get(RESTART)
        settle_s = control.settle_s if control is not None else None
        within_s = control.verify_within_s if control is not None else None
        began = self._clock.monotonic()
        give_up_at = began + (within_s or self._settings.restart_within_s)
        await self._clock.sleep(self._settings.restart_settle_s if settle_s is None else settle_s)
        away = answered = False
        while True:
            answered = await self._answers(target)
            if answered and (confirmed or away):
                took_s = self._clock.monotonic() - began
                evidence = Evidence(answer=f"{answer}; answers again after {took_s:.0f} s")
                return Switched(Stage.VERIFIED, evidence, None if confirmed else "confirmed_by_silence")
            away = away or not answered
            if self._clock.monotonic() >= give_up_at:
                # Either it stays away, or it never was: then nobody knows whether it has taken the order.
                stage, reason = (Stage.UNKNOWN, "unconfirmed") if answered else (Stage.FAILED, "not_back")
                return Switched(stage, Evidence(answer=answer), reason)
            await self._clock.sleep(self._settings.read_back_every_s)

    async def _answers(self, target: Target) -> bool:
        wanted = _telling_points(target.profile)
        try:
            points, _ = await self._reach.use(target, lambda handle: handle.read(wanted), alone=False)
        except (LineDown, DeviceSilent, DeviceRefused, BadAnswer) as exc:
            logger.debug("not back yet", extra={"device_id": target.device_id, "reason": exc.message})
            return False
        return any(value is not None for value in points.values())


def _telling_points(profile: DeviceProfile) -> list[str]:
    """Return some points of a profile of which any device that is there tells one."""
    points = [point for point in profile.points.values() if not point.is_text and point.copy_of is None]
    plain = [point for point in points if not point.optional and not point.slow]
    return [point.name for point in plain or points][:LOOKED_AT]


def _not_sent(exc: InvalidInput | LineDown) -> Switched:
    """Return what is said of an order that the device never had."""
    reason = exc.code if isinstance(exc, LineDown | NotOffered) else "bad_arguments"
    return Switched(Stage.REFUSED, Evidence(), reason, exc.message, sent=False)
