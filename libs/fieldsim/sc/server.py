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
from libs.fieldsim.sc import draft, messages
from libs.fieldsim.sc.catalogue import Finding, Rule, violations
from libs.fieldsim.sc.client import Answer, UnitClient
from libs.fieldsim.sc.faults import NOT_TAKEN, Fault, FaultQueue, Order
from libs.fieldsim.sc.httpserver import HttpServer, Reply, Request
from libs.fieldsim.sc.journal import Entry, Journal
from libs.fieldsim.sc.replies import Asked
from libs.fieldsim.sc.rules import AlarmEvent, Centre, Unit, name_and_code, read_event
from libs.fieldsim.sc.soap import (
    CONTENT_TYPE,
    BadMessage,
    Message,
    child,
    element,
    fault_envelope,
    masked,
    parse_payload,
    payload,
    reply_envelope,
    unwrap,
)
from libs.fieldsim.sc.spec import TOWER, Spec
from libs.fieldsim.sc.wsdl import sc_wsdl

logger = logging.getLogger(__name__)

PATH = "/services/SCService"
TRAP = "/trap/"
"""What a hostile message asks a unit to fetch; a unit that comes has resolved an entity."""
UNIT_PORT = 8080
RIGHT_READ_WRITE = "2"
RIGHT_NONE = "0"
POLL_TICK_S = 1.0
JOBS_WAITING = 1000
"""Calls to units that may wait; more are refused."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How the centre behaves when nothing is ordered."""

    spec: Spec = TOWER
    """The dialect that it speaks."""
    centre_ip: str = "127.0.0.1"
    """``SCIP`` of LOGIN_ACK: where units send their events."""
    strict: bool = False
    """Refuse what breaks a rule instead of recording it only; what is unconfirmed is never refused."""
    time_check_at_login: bool = True
    info_every_s: float | None = None
    """GET_FSUINFO or GET_SUINFO of every registered unit, the heartbeat; none: on command only. [s]"""
    data_every_s: float | None = None
    """GET_DATA of every registered unit; none: on command only. [s]"""
    time_every_s: float | None = None
    """TIME_CHECK or SET_TIME of every registered unit; none: at LOGIN and on command. [s]"""
    unit_urls: Mapping[str, str] = field(default_factory=dict)
    """Service of a unit by its id; ``*`` for all others. Without one: where its LOGIN says."""
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
        self.spec = self.policy.spec
        self.centre = Centre(self.spec)
        self.faults = FaultQueue()
        self.trapped: list[str] = []
        self.journal = Journal(journal_path)
        self.unit_urls = dict(self.policy.unit_urls)
        self._http = HttpServer(self._handle, host=host, port=port)
        self._jobs: asyncio.Queue[tuple[Unit, str]] = asyncio.Queue(JOBS_WAITING)

    @property
    def url(self) -> str:
        """Where units call."""
        return f"http://{self._http.host}:{self._http.port}{PATH}"

    @property
    def trap_url(self) -> str:
        """What hostile messages name; who fetches it is in ``trapped``."""
        return f"http://{self._http.host}:{self._http.port}{TRAP}"

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
        async with UnitClient(spec=self.spec) as client, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._work(client), name="sc calls")
            tasks.create_task(self._poll(), name="sc polls")

    async def call(self, unit_id: str, name: str, order: str, asked: Asked | None = None) -> Answer:
        """Call a registered unit and write it into the journal.

        Args:
            unit_id: Whom.
            name: Of the request.
            order: The request's payload.
            asked: What it wants, to judge the answer by; none: only which unit answers.

        Raises:
            NotFound: No unit of that id has registered and no URL is known for it.
        """
        async with UnitClient(spec=self.spec) as client:
            return await self._call(client, unit_id, name, order, asked)

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
        return f"http://{unit.ip}:{unit.port or UNIT_PORT}{self.spec.unit_path}"

    def now(self) -> datetime:
        """Return the centre's own time, wrong when the policy says so."""
        return self.clock.now() + timedelta(seconds=self.policy.clock_offset_s)

    async def _handle(self, request: Request) -> Reply:
        if request.path.startswith(TRAP):
            self.trapped.append(request.path)
            return Reply(404, b"nobody should have asked\n")
        if request.path != PATH:
            return Reply(404, b"there is only " + PATH.encode() + b"\n")
        if request.method == "GET":
            host = request.headers.get("host", f"{self._http.host}:{self._http.port}")
            return Reply(200, sc_wsdl(f"http://{host}{PATH}", self.spec), CONTENT_TYPE)
        if request.method != "POST":
            return Reply(405, b"POST a SOAP message or GET ?wsdl\n", headers={"allow": "GET, POST"})
        return self._soap(request)

    def _soap(self, request: Request) -> Reply:
        at, began_s = self.clock.now(), self.clock.monotonic()
        try:
            namespace, text = unwrap(request.body, argument="xmlData")
        except BadMessage as exc:
            self._note(request, at, began_s, str(exc))
            return Reply(500, fault_envelope(str(exc)), CONTENT_TYPE)
        try:
            message = parse_payload(text)
        except BadMessage as exc:
            self._note(request, at, began_s, str(exc))
            unread = payload("Response", "UNKNOWN_ACK", 0, [element("Result", "0")])
            return self._envelope(unread)
        order = self.faults.take(message.name)
        taken = self._take(message, at, order)
        wanted = self.spec.sc_namespace
        if self.spec.namespaces_public and namespace != wanted:
            taken.findings.append(
                self.spec.found(
                    Rule.NAMESPACE,
                    f"called in {namespace!r}, not {wanted!r}",
                    f"调用命名空间为 {namespace!r}，应为 {wanted!r}",
                )
            )
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
                message=masked(text) if taken.findings else None,
            )
        )
        return self._spoilt(messages.answer(message.name, taken.code, taken.children), message, taken, order)

    def _take(self, message: Message, at: datetime, order: Order | None) -> _Taken:
        wrong = name_and_code(message, self.spec.from_unit, self.spec)
        if message.root != "Request":
            wrong.append(
                self.spec.found(
                    Rule.NAME_CODE, f"a {message.root} where a Request belongs", f"应为Request，收到 {message.root}"
                )
            )
        if wrong:
            unit_id = message.value(self.spec.unit_names[0])
            return _Taken(message.code or 0, [element("Result", "0")], "0", {}, wrong, unit_id)
        refused = order is not None and (order.kind in NOT_TAKEN or not order.taken)
        match message.name:
            case "LOGIN":
                return self._login(message, at, refused=refused)
            case "SEND_ALARM":
                return self._alarms(message, at, order, refused=refused)
            case "LOGOUT":
                findings = [] if refused else self.centre.logout(message)
            case "SUREADY":
                findings = [] if refused else self.centre.ready(message)
            case _:
                findings = [] if refused else self.centre.asked(message)
        accepted = not refused and not (self.policy.strict and violations(findings))
        return self._result(message, accepted, {}, findings)

    def _login(self, message: Message, at: datetime, *, refused: bool) -> _Taken:
        if refused:
            unit_id = message.value(self.spec.unit_names[0])
            return self._let_in(message, False, {}, [], unit_id)
        unit, findings = self.centre.login(message, at)
        accepted = not (self.policy.strict and violations(findings))
        facts = {
            "unit_ip": unit.ip,
            "unit_port": unit.port,
            "old_registration": unit.old_registration,
            "devices": list(unit.devices),
            "fields": {
                str(c.tag): (c.text or "").strip()
                for c in message.info
                if isinstance(c.tag, str) and not len(c) and c.tag.lower() not in ("username", "pascword", "password")
            },
        }
        if accepted:
            self._order_after_login(unit)
        return self._let_in(message, accepted, facts, findings, unit.unit_id)

    def _let_in(
        self,
        message: Message,
        accepted: bool,
        facts: Mapping[str, object],
        findings: list[Finding],
        unit_id: str | None,
    ) -> _Taken:
        """Answer a LOGIN: T tells a right and has no Result, Y has a Result."""
        if self.spec.name != "T":
            return self._result(message, accepted, facts, findings, unit_id)
        right = RIGHT_READ_WRITE if accepted else RIGHT_NONE
        answer = [element("SCIP", self.policy.centre_ip), element("RightLevel", right)]
        return _Taken(101, answer, None, {"right_level": right, **facts}, findings, unit_id)

    def _order_after_login(self, unit: Unit) -> None:
        if unit.old_registration:
            self._queue(unit, "SET_LOGININFO")
        if self.policy.time_check_at_login:
            self._queue(unit, self._time_name)

    def _alarms(self, message: Message, at: datetime, order: Order | None, *, refused: bool) -> _Taken:
        values = child(message.info, "Values")
        holder = None if values is None else child(values, "TAlarmList")
        if holder is None:
            finding = self.spec.found(Rule.MISSING_FIELD, "Values/TAlarmList missing", "缺少 Values/TAlarmList")
            return self._result(message, False, {"alarms": []}, [finding])
        answered = order is None
        events: list[AlarmEvent] = []
        findings: list[Finding] = []
        for alarm in holder:
            taken = (read_event(self.spec, alarm), []) if refused else self.centre.alarm(alarm, at, answered=answered)
            event, found = taken
            events.append(event)
            findings += found
        facts = {"alarms": [event.as_dict() for event in events], "taken": not refused}
        accepted = not refused and not (self.policy.strict and violations(findings))
        unit_id = events[0].unit_id if events else None
        return self._result(message, accepted, facts, findings, unit_id)

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

    @property
    def _time_name(self) -> str:
        return "TIME_CHECK" if self.spec.name == "T" else "SET_TIME"

    def _payload(self, unit: Unit, name: str) -> str:
        match name:
            case "SET_LOGININFO":
                return messages.set_logininfo(unit.unit_id, self.policy.centre_ip, unit.devices)
            case "TIME_CHECK":
                return messages.time_check(self.now())
            case "SET_TIME":
                return draft.set_time(unit.unit_id, self.now())
            case "GET_FSUINFO":
                return messages.get_fsuinfo(unit.unit_id)
            case "GET_SUINFO":
                return draft.about(name, unit.unit_id)
            case _:
                make = messages.get_data if self.spec.name == "T" else draft.get_data
                return make(unit.unit_id)

    async def _poll(self) -> None:
        due = {
            self.spec.heartbeat: self.policy.info_every_s,
            self.spec.read_values: self.policy.data_every_s,
            self._time_name: self.policy.time_every_s,
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

    async def _call(
        self, client: UnitClient, unit_id: str, name: str, order: str, asked: Asked | None = None
    ) -> Answer:
        url = self.unit_url(unit_id)
        at, began_s = self.clock.now(), self.clock.monotonic()
        named = None if name == "TIME_CHECK" else unit_id
        answer = await client.call(url, name, order, unit_id=named, asked=asked)
        self.journal.write(
            Entry(
                sequence=self.journal.next_sequence(),
                at=at,
                direction="out",
                peer=url,
                name=name,
                code=self.spec.codes[name],
                unit_id=unit_id,
                result=answer.result,
                answered=answer.message is not None,
                duration_ms=1000 * (self.clock.monotonic() - began_s),
                facts=answer.facts() if name not in ("GET_FTP", "GET_SUFTP") else {},  # they carry a password
                findings=answer.findings,
                message=masked(answer.text) if answer.findings else None,
            )
        )
        return answer

    def _note(self, request: Request, at: datetime, began_s: float, reason: str) -> None:
        """Write down what was no message."""
        self.journal.write(
            Entry(
                sequence=self.journal.next_sequence(),
                at=at,
                direction="in",
                peer=request.peer,
                name="?",
                code=None,
                unit_id=None,
                result="0",
                answered=True,
                duration_ms=1000 * (self.clock.monotonic() - began_s),
                findings=[self.spec.found(Rule.TRANSPORT, reason, f"不是有效报文：{reason}")],
            )
        )

    def _result(
        self,
        message: Message,
        accepted: bool,
        facts: Mapping[str, object],
        findings: list[Finding],
        unit_id: str | None = None,
    ) -> _Taken:
        spec = self.spec
        named = unit_id or message.value(spec.unit_names[0])
        result = "1" if accepted else "0"
        children = [element("Result", result)]
        if spec.has_failure:
            children = [
                element("SUID", named or ""),
                *children,
                element("FailureCode"),
                element("FailureCause", "" if accepted else "refused by the centre"),
            ]
        return _Taken(spec.from_unit[message.name], children, result, facts, findings, named)

    def _envelope(self, text: str) -> Reply:
        return Reply(200, reply_envelope(self.spec.sc_namespace, text), CONTENT_TYPE)

    def _spoilt(self, text: str, message: Message, taken: _Taken, order: Order | None) -> Reply:
        """Return the answer, or what an ordered fault leaves of it."""
        if order is None:
            return self._envelope(text)
        match order.kind:
            case Fault.NO_ANSWER:
                return Reply(delay_s=order.delay_s, drop=True)
            case Fault.DROP:
                return Reply(drop=True)
            case Fault.LATE:
                whole = self._envelope(text)
                return Reply(whole.status, whole.body, whole.content_type, delay_s=order.delay_s)
            case Fault.RESULT_0:
                return self._envelope(text)  # the refusal is in it already
            case Fault.GARBAGE:
                return Reply(200, b"\x1f\x8b not an envelope <<<", CONTENT_TYPE)
            case Fault.WRONG_CODE:
                return self._envelope(messages.answer(message.name, taken.code + 100, taken.children))
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
            port=port if isinstance(port := entry.get("unit_port"), int) else None,
        )
    elif entry["name"] == "SUREADY" and unit_id in centre.units:
        centre.units[unit_id].ready = True
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
            began_text=facts.get("began", ""),
        )
        centre.remember(event, answered=answered)
