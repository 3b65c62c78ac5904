"""Calls a unit the way a supervision centre does; for the centre's own polls and for integrators' command lines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import httpx
from lxml import etree

from libs.fieldsim.sc.messages import CODES, ack_name
from libs.fieldsim.sc.rules import Finding, Rule
from libs.fieldsim.sc.soap import (
    CONTENT_TYPE,
    UNIT_NAMESPACE,
    BadMessage,
    Message,
    child,
    parse_payload,
    request_envelope,
    unwrap,
)

TIMEOUT_S = 5.0
"""What units in the field are given for one exchange. [s]"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and what is wrong with it."""

    message: Message | None
    """None: no answer, or none that can be read."""
    findings: Sequence[Finding]
    text: str
    """The payload as it came, for people."""

    @property
    def result(self) -> str | None:
        """The Result element; none when there is none."""
        return None if self.message is None else self.message.value("Result")

    def facts(self) -> Mapping[str, object]:
        """Return what the answer says, JSON-ready."""
        if self.message is None:
            return {}
        return _facts(self.message.info)


class UnitClient:
    """One HTTP client for the units of a centre.

    Args:
        timeout_s: For one exchange. [s]
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._http = httpx.AsyncClient(timeout=timeout_s, trust_env=False)

    async def __aenter__(self) -> "UnitClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def call(self, url: str, name: str, payload: str, *, unit_id: str | None) -> Answer:
        """Send one request; whatever comes or does not come is in the answer, nothing is raised.

        Args:
            url: Of the unit's service.
            name: Of the request, to know its answer by.
            payload: The request.
            unit_id: Which unit has to answer; none: the message names no unit.
        """
        headers = {"Content-Type": CONTENT_TYPE, "SOAPAction": '""'}
        try:
            reply = await self._http.post(url, content=request_envelope(UNIT_NAMESPACE, payload), headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            return Answer(None, [Finding(Rule.TRANSPORT, f"{type(exc).__name__}: {exc}")], "")
        try:
            namespace, text = unwrap(reply.content, argument="invokeReturn")
        except BadMessage as exc:
            return Answer(None, [Finding(Rule.TRANSPORT, f"HTTP {reply.status_code}, {exc}")], reply.text)
        if not text:
            return Answer(None, [Finding(Rule.TRANSPORT, "an empty invokeReturn: the unit does not know it")], "")
        try:
            message = parse_payload(text)
        except BadMessage as exc:
            return Answer(None, [Finding(Rule.TRANSPORT, str(exc))], text)
        findings = _judged(message, name, unit_id)
        if namespace != UNIT_NAMESPACE:
            findings.append(Finding(Rule.NAMESPACE, f"answered in {namespace!r}, not {UNIT_NAMESPACE!r}"))
        return Answer(message, findings, text)


def _judged(message: Message, name: str, unit_id: str | None) -> list[Finding]:
    findings = []
    expected = (ack_name(name), CODES[name] + 1)
    if message.root != "Response" or (message.name, message.code) != expected:
        findings.append(Finding(Rule.NAME_CODE, f"{message.root} {message.name} {message.code}, expected {expected}"))
    if message.value("Result") is None:
        findings.append(Finding(Rule.RESULT, "no Result"))
    answering = message.value("FsuId")
    if unit_id is not None and answering != unit_id:
        findings.append(Finding(Rule.UNIT_ID, f"unit {answering!r} answers for {unit_id!r}"))
    return findings


def _facts(info: etree._Element) -> dict[str, object]:
    """Return the plain fields of an answer, and its values, thresholds and lists by device."""
    facts: dict[str, object] = {
        "fields": {c.tag: (c.text or "").strip() for c in info if isinstance(c.tag, str) and not len(c)}
    }
    status = child(info, "TFSUStatus")
    if status is not None:
        facts["status"] = {str(c.tag): c.text for c in status}
    devices = [
        {
            "device_id": device.get("Id"),
            "values": [dict(v.attrib) for v in device if v.tag in ("TSemaphore", "TThreshold")],
            "done": _ids(device, "SuccessList"),
            "failed": _ids(device, "FailList"),
        }
        for device in info.iter("Device")
    ]
    if devices:
        facts["devices"] = devices
    return facts


def _ids(device: etree._Element, tag: str) -> list[str]:
    holder = child(device, tag)
    return [] if holder is None else [(point.text or "").strip() for point in holder]
