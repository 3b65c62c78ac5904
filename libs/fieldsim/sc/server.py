"""The supervision centre: answers units, polls them, remembers alarms, keeps a journal, fails on order."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from lxml import etree

from libs.common.clock import Clock
from libs.common.errors import NotFound
from libs.fieldsim.sc import messages
from libs.fieldsim.sc.client import Answer, UnitClient
from libs.fieldsim.sc.faults import NOT_TAKEN, Fault, FaultQueue, Order
from libs.fieldsim.sc.httpserver import HttpServer, Reply, Request
from libs.fieldsim.sc.journal import Entry, Journal
from libs.fieldsim.sc.messages import FROM_UNIT
from libs.fieldsim.sc.rules import Alarm, AlarmEvent, Centre, Finding, Rule, Unit, name_and_code
from libs.fieldsim.sc.soap import (
    CONTENT_TYPE,
    SC_NAMESPACE,
    BadMessage,
    Message,
    child,
    element,
    fault_envelope,
    parse_payload,
    payload,
    reply_envelope,
    unwrap,
)
from libs.fieldsim.sc.wsdl import sc_wsdl

logger = logging.getLogger(__name__)

PATH = "/services/SCService"
UNIT_PORT = 8080
UNIT_PATH = "/services/FSUService"
RIGHT_READ_WRITE = "2"
RIGHT_NONE = "0"
POLL_TICK_S = 1.0
JOBS_WAITING = 1000
"""Calls to units that may wait; more are refused."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How the centre behaves when nothing is ordered."""

    centre_ip: str = "127.0.0.1"
    """``SCIP`` of LOGIN_ACK: where units send their events."""
    strict: bool = False
    """Refuse what has findings instead of recording them only."""
    time_check_at_login: bool = True
    info_every_s: float | None = None
    """GET_FSUINFO of every registered unit, the heartbeat; none: on command only. [s]"""
    data_every_s: float | None = None
    """GET_DATA of every registered unit; none: on command only. [s]"""
    time_every_s: float | None = None
    """TIME_CHECK of every registered unit; none: at LOGIN and on command. [s]"""
    unit_urls: Mapping[str, str] = field(default_factory=dict)
    """Service of a unit by its id; ``*`` for all others. Without one: port 8080 of the FsuIP of its LOGIN."""
    clock_offset_s: float = 0.0
    """How wrong the time is that the centre tells. [s]"""


@dataclass(frozen=True, slots=True)
class _Taken:
    """What became of a message: the answer, and what goes into the journal."""

    code: int
    children: list[etree._Element]
    result: str | None
    facts: Mapping[str, object]
    findings: list[Finding]
    unit_id: str | None = None


class SupervisionCentre:
    """A centre on one port.

    Args:
        clock: Ours.
        policy: How it behaves.
        journal_path: Its journal; what stands in it is remembered again. None: memory only.
        host: Where to listen.
        port: 0: a free one.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        policy: Policy | None = None,
        journal_path: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.clock = clock
        self.policy = policy or Policy()
        self.centre = Centre()
        self.faults = FaultQueue()
        self.journal = Journal(journal_path)
        self.unit_urls = dict(self.policy.unit_urls)
        self._http = HttpServer(self._handle, host=host, port=port)
        self._jobs: asyncio.Queue[tuple[Unit, str]] = asyncio.Queue(JOBS_WAITING)

    @property
    def url(self) -> str:
        """Where units call."""
        return f"http://{self._http.host}:{self._http.port}{PATH}"

    async def start(self) -> None:
        """Remember what the journal tells and listen.

        Raises:
            OSError: The port is taken, or the journal cannot be written.
        """
        for entry in self.journal.open():
            _remember(self.centre, entry)
        await self._http.start()

    async def stop(self) -> None:
        """Stop listening and close the journal."""
        await self._http.stop()
        self.journal.close()

    async def run(self) -> None:
        """Call units: what LOGINs ask for, and the periodic polls; until cancelled."""
        async with UnitClient() as client, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._work(client), name="sc calls")
            tasks.create_task(self._poll(), name="sc polls")

    async def call(self, unit_id: str, name: str, order: str) -> Answer:
        """Call a registered unit and write it into the journal.

        Args:
            unit_id: Whom.
            name: Of the request.
            order: The request's payload.

        Raises:
            NotFound: No unit of that id has registered and no URL is known for it.
        """
        async with UnitClient() as client:
            return await self._call(client, unit_id, name, order)

    def unit_url(self, unit_id: str) -> str:
        """Return where a unit listens.

        Raises:
            NotFound: It has not registered and no URL is known for it.
        """
        known = self.unit_urls.get(unit_id) or self.unit_urls.get("*")
        if known is not None:
            return known
        unit = self.centre.units.get(unit_id)
        if unit is None or not unit.ip:
            raise NotFound(f"unit {unit_id} has not logged in", message_zh=f"FSU {unit_id} 尚未注册")
        return f"http://{unit.ip}:{UNIT_PORT}{UNIT_PATH}"

    def now(self) -> datetime:
        """Return the centre's own time, wrong when the policy says so."""
        return self.clock.now() + timedelta(seconds=self.policy.clock_offset_s)

    async def _handle(self, request: Request) -> Reply:
        if request.path != PATH:
            return Reply(404, b"there is only " + PATH.encode() + b"\n")
        if request.method == "GET":
            host = request.headers.get("host", f"{self._http.host}:{self._http.port}")
            return Reply(200, sc_wsdl(f"http://{host}{PATH}"), CONTENT_TYPE)
        if request.method != "POST":
            return Reply(405, b"POST a SOAP message or GET ?wsdl\n", headers={"allow": "GET, POST"})
        return self._soap(request)

    def _soap(self, request: Request) -> Reply:
        at, began_s = self.clock.now(), self.clock.monotonic()
        try:
            namespace, text = unwrap(request.body, argument="xmlData")
        except BadMessage as exc:
            self._note(request, at, began_s, name="?", finding=Finding(Rule.TRANSPORT, str(exc)))
            return Reply(500, fault_envelope(str(exc)), CONTENT_TYPE)
        try:
            message = parse_payload(text)
        except BadMessage as exc:
            self._note(request, at, began_s, name="?", finding=Finding(Rule.TRANSPORT, str(exc)))
            unread = payload("Response", "UNKNOWN_ACK", 0, [element("Result", "0")])
            return _reply(unread)
        order = self.faults.take(message.name)
        taken = self._take(message, at, order)
        if namespace != SC_NAMESPACE:
            taken.findings.append(Finding(Rule.NAMESPACE, f"called in {namespace!r}, not {SC_NAMESPACE!r}"))
        self.journal.write(
            Entry(
                sequence=self.journal.next_sequence(),
                at=at,
                direction="in",
                peer=request.peer,
                name=message.name,
                code=message.code,
                unit_id=taken.unit_id,
                result=taken.result,
                answered=order is None,
                duration_ms=1000 * (self.clock.monotonic() - began_s),
                facts=taken.facts,
                findings=taken.findings,
                fault=None if order is None else order.kind.value,
            )
        )
        return _spoilt(messages.answer(message.name, taken.code, taken.children), message, taken, order)

    def _take(self, message: Message, at: datetime, order: Order | None) -> _Taken:
        wrong = name_and_code(message, FROM_UNIT)
        if message.root != "Request":
            wrong.append(Finding(Rule.NAME_CODE, f"a {message.root} where a Request belongs"))
        if wrong:
            return _Taken(message.code or 0, [element("Result", "0")], "0", {}, wrong, message.value("FsuId"))
        refused = order is not None and (order.kind in NOT_TAKEN or not order.taken)
        if message.name == "LOGIN":
            return self._login(message, at, refused=refused)
        if message.name == "LOGOUT":
            findings = [] if refused else self.centre.logout(message)
            return _result(message, not refused, {}, findings)
        return self._alarms(message, at, order, refused=refused)

    def _login(self, message: Message, at: datetime, *, refused: bool) -> _Taken:
        unit_id = message.value("FsuId")
        if refused:
            answer = [element("SCIP", self.policy.centre_ip), element("RightLevel", RIGHT_NONE)]
            return _Taken(101, answer, None, {"right_level": RIGHT_NONE}, [], unit_id)
        unit, findings = self.centre.login(message, at)
        right = RIGHT_NONE if findings and self.policy.strict else RIGHT_READ_WRITE
        facts = {
            "right_level": right,
            "unit_ip": unit.ip,
            "old_registration": unit.old_registration,
            "devices": list(unit.devices),
            "fields": {
                str(c.tag): (c.text or "").strip()
                for c in message.info
                if isinstance(c.tag, str) and not len(c) and c.tag.lower() not in ("username", "pascword", "password")
            },
        }
        if right == RIGHT_READ_WRITE:
            self._order_after_login(unit)
        answer = [element("SCIP", self.policy.centre_ip), element("RightLevel", right)]
        return _Taken(101, answer, None, facts, findings, unit.unit_id)

    def _order_after_login(self, unit: Unit) -> None:
        if unit.old_registration:
            self._queue(unit, "SET_LOGININFO")
        if self.policy.time_check_at_login:
            self._queue(unit, "TIME_CHECK")

    def _alarms(self, message: Message, at: datetime, order: Order | None, *, refused: bool) -> _Taken:
        values = child(message.info, "Values")
        holder = None if values is None else child(values, "TAlarmList")
        if holder is None:
            finding = Finding(Rule.MISSING_FIELD, "Values/TAlarmList missing")
            return _result(message, False, {"alarms": []}, [finding])
        answered = order is None
        events: list[AlarmEvent] = []
        findings: list[Finding] = []
        for alarm in holder:
            event, found = (self._peek(alarm), []) if refused else self.centre.alarm(alarm, at, answered=answered)
            events.append(event)
            findings += found
        facts = {"alarms": [event.as_dict() for event in events], "taken": not refused}
        accepted = not refused and not (findings and self.policy.strict)
        unit_id = events[0].unit_id if events else None
        return _result(message, accepted, facts, findings, unit_id)

    def _peek(self, alarm: etree._Element) -> AlarmEvent:
        """Read an alarm without remembering it."""
        return Centre().alarm(alarm, self.clock.now(), answered=False)[0]

    def _queue(self, unit: Unit, name: str) -> None:
        try:
            self._jobs.put_nowait((unit, name))
        except asyncio.QueueFull:
            logger.warning("too many calls wait, one is left out", extra={"unit": unit.unit_id, "call": name})

    async def _work(self, client: UnitClient) -> None:
        while True:
            unit, name = await self._jobs.get()
            try:
                await self._call(client, unit.unit_id, name, self._payload(unit, name))
            except NotFound as exc:
                logger.warning("unit cannot be called", extra={"unit": unit.unit_id, "reason": exc.message})

    def _payload(self, unit: Unit, name: str) -> str:
        match name:
            case "SET_LOGININFO":
                return messages.set_logininfo(unit.unit_id, self.policy.centre_ip, unit.devices)
            case "TIME_CHECK":
                return messages.time_check(self.now())
            case "GET_FSUINFO":
                return messages.get_fsuinfo(unit.unit_id)
            case _:
                return messages.get_data(unit.unit_id)

    async def _poll(self) -> None:
        due = {
            "GET_FSUINFO": self.policy.info_every_s,
            "GET_DATA": self.policy.data_every_s,
            "TIME_CHECK": self.policy.time_every_s,
        }
        periods = {name: period_s for name, period_s in due.items() if period_s is not None}
        began_s = self.clock.monotonic()
        rounds = dict.fromkeys(periods, 0)
        while True:
            await self.clock.sleep(POLL_TICK_S)
            for name, period_s in periods.items():
                number = int((self.clock.monotonic() - began_s) / period_s)
                if number > rounds[name]:
                    rounds[name] = number
                    for unit in self.centre.units.values():
                        if unit.online:
                            self._queue(unit, name)

    async def _call(self, client: UnitClient, unit_id: str, name: str, order: str) -> Answer:
        url = self.unit_url(unit_id)
        at, began_s = self.clock.now(), self.clock.monotonic()
        answer = await client.call(url, name, order, unit_id=None if name == "TIME_CHECK" else unit_id)
        self.journal.write(
            Entry(
                sequence=self.journal.next_sequence(),
                at=at,
                direction="out",
                peer=url,
                name=name,
                code=messages.CODES[name],
                unit_id=unit_id,
                result=answer.result,
                answered=answer.message is not None,
                duration_ms=1000 * (self.clock.monotonic() - began_s),
                facts=answer.facts() if name != "GET_FTP" else {},  # it carries a password
                findings=answer.findings,
            )
        )
        return answer

    def _note(self, request: Request, at: datetime, began_s: float, *, name: str, finding: Finding) -> None:
        self.journal.write(
            Entry(
                sequence=self.journal.next_sequence(),
                at=at,
                direction="in",
                peer=request.peer,
                name=name,
                code=None,
                unit_id=None,
                result="0",
                answered=True,
                duration_ms=1000 * (self.clock.monotonic() - began_s),
                findings=[finding],
            )
        )


def _result(
    message: Message,
    accepted: bool,
    facts: Mapping[str, object],
    findings: list[Finding],
    unit_id: str | None = None,
) -> _Taken:
    result = "1" if accepted else "0"
    code = FROM_UNIT[message.name]
    return _Taken(code, [element("Result", result)], result, facts, findings, unit_id or message.value("FsuId"))


def _reply(text: str) -> Reply:
    return Reply(200, reply_envelope(SC_NAMESPACE, text), CONTENT_TYPE)


def _spoilt(text: str, message: Message, taken: _Taken, order: Order | None) -> Reply:
    """Return the answer, or what an ordered fault leaves of it."""
    if order is None:
        return _reply(text)
    match order.kind:
        case Fault.NO_ANSWER:
            return Reply(delay_s=order.delay_s, drop=True)
        case Fault.DROP:
            return Reply(drop=True)
        case Fault.LATE:
            whole = _reply(text)
            return Reply(whole.status, whole.body, whole.content_type, delay_s=order.delay_s)
        case Fault.RESULT_0:
            return _reply(text)  # the refusal is in it already
        case Fault.GARBAGE:
            return Reply(200, b"\x1f\x8b not an envelope <<<", CONTENT_TYPE)
        case Fault.WRONG_CODE:
            return _reply(messages.answer(message.name, taken.code + 100, taken.children))
        case Fault.HTTP_500:
            return Reply(500, b"internal error\n")


def _remember(centre: Centre, entry: Mapping[str, object]) -> None:
    """Take over from a journal entry what a centre must not forget over a restart."""
    if entry["direction"] != "in":
        return
    at = datetime.fromisoformat(str(entry["at"]))
    unit_id = str(entry["unit_id"])
    devices = entry.get("devices")
    if entry["name"] == "LOGIN" and isinstance(devices, list):
        centre.units[unit_id] = Unit(
            unit_id=unit_id,
            logged_in_at=at,
            ip=str(entry.get("unit_ip", "")),
            old_registration=bool(entry.get("old_registration")),
            devices=tuple(map(str, devices)),
        )
    elif entry["name"] == "LOGOUT" and unit_id in centre.units:
        centre.units[unit_id].online = False
    alarms = entry.get("alarms")
    if not isinstance(alarms, list) or not entry.get("taken"):
        return
    answered = bool(entry["answered"])
    for facts in alarms:
        event = AlarmEvent(
            unit_id=facts["unit_id"],
            serial=facts["serial"],
            point_id=facts["point_id"],
            device_id=facts["device_id"],
            flag=facts["flag"],
            level=facts["level"],
            time_text=facts["time"],
            text=facts["text"],
        )
        key = (event.unit_id, event.serial)
        if event.flag == "BEGIN":
            known = centre.alarms.setdefault(key, Alarm(begin=event, begin_answered=answered))
            known.begin_answered = known.begin_answered or answered
        elif key in centre.alarms:
            centre.alarms[key].end = event
            centre.alarms[key].end_answered = answered
