"""Calls a unit the way a supervision centre does; for the centre's own polls and for integrators' command lines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import httpx
from lxml import etree

from libs.fieldsim.sc.catalogue import Finding, Rule
from libs.fieldsim.sc.replies import Asked, judged
from libs.fieldsim.sc.soap import (
    CONTENT_TYPE,
    BadMessage,
    Message,
    child,
    parse_payload,
    request_envelope,
    unwrap,
)
from libs.fieldsim.sc.spec import TOWER, Spec

VALUES = ("TSemaphore", "TThreshold", "TConfigOption")
"""What stands below a device in answers."""
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


@dataclass(frozen=True, slots=True)
class Posted:
    """What an HTTP exchange brought."""

    status: int | None
    """None: no answer."""
    body: bytes
    reason: str = ""
    """Why there is no answer."""


class UnitClient:
    """One HTTP client for the units of a centre.

    Args:
        timeout_s: For one exchange. [s]
        spec: The dialect.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S, spec: Spec = TOWER) -> None:
        self.spec = spec
        self._http = httpx.AsyncClient(timeout=timeout_s, trust_env=False)

    async def __aenter__(self) -> "UnitClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def post(self, url: str, body: bytes, *, soap_action: str = '""') -> Posted:
        """Send any bytes; whatever comes or does not come is returned, nothing is raised."""
        headers = {"Content-Type": CONTENT_TYPE, "SOAPAction": soap_action}
        try:
            reply = await self._http.post(url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            return Posted(None, b"", f"{type(exc).__name__}: {exc}")
        return Posted(reply.status_code, reply.content)

    async def call(
        self,
        url: str,
        name: str,
        payload: str,
        *,
        unit_id: str | None = None,
        asked: Asked | None = None,
        body: bytes | None = None,
        soap_action: str = '""',
    ) -> Answer:
        """Send one request; whatever comes or does not come is in the answer, nothing is raised.

        Args:
            url: Of the unit's service.
            name: Of the request, to know its answer by.
            payload: The request.
            unit_id: Which unit has to answer; none: the message names no unit.
            asked: What was asked, when more than the unit is to be judged.
            body: The whole HTTP body, when the usual envelope is not wanted.
            soap_action: Header of that name.
        """
        spec = self.spec
        posted = await self.post(url, body or request_envelope(spec.unit_namespace, payload), soap_action=soap_action)
        answer = self.read(posted)
        if answer.message is None:
            return answer
        findings = [*answer.findings, *judged(answer.message, name, asked or Asked(unit_id), spec)]
        return Answer(answer.message, findings, answer.text)

    def read(self, posted: Posted) -> Answer:
        """Take an answer apart without judging what it says."""
        spec = self.spec
        if posted.status is None:
            return self._no(posted.reason, f"无应答：{posted.reason}")
        try:
            namespace, text = unwrap(posted.body, argument="invokeReturn")
        except BadMessage as exc:
            shown = posted.body.decode("utf-8", "replace")
            return self._no(f"HTTP {posted.status}, {exc}", f"HTTP {posted.status}，应答不是有效信封：{exc}", shown)
        if not text:
            return self._no("an empty invokeReturn: the unit does not know it", "invokeReturn为空，设备不支持该命令")
        try:
            message = parse_payload(text)
        except BadMessage as exc:
            return self._no(str(exc), f"应答报文无法解析：{exc}", text)
        findings = []
        if spec.namespaces_public and namespace != spec.unit_namespace:
            findings.append(
                spec.found(
                    Rule.NAMESPACE,
                    f"answered in {namespace!r}, not {spec.unit_namespace!r}",
                    f"应答命名空间为 {namespace!r}，应为 {spec.unit_namespace!r}",
                )
            )
        return Answer(message, findings, text)

    def _no(self, text: str, text_zh: str, shown: str = "") -> Answer:
        return Answer(None, [self.spec.found(Rule.TRANSPORT, text, text_zh)], shown)


def _facts(info: etree._Element) -> dict[str, object]:
    """Return the plain fields of an answer, and its values, thresholds and lists by device."""
    facts: dict[str, object] = {
        "fields": {c.tag: (c.text or "").strip() for c in info if isinstance(c.tag, str) and not len(c)}
    }
    status = next((found for found in (child(info, n) for n in ("TFSUStatus", "TSUStatus")) if found is not None), None)
    if status is not None:
        facts["status"] = {str(c.tag): c.text for c in status}
    devices = [
        {
            "device_id": device.get("Id") or device.get("DeviceID"),
            "values": [dict(v.attrib) for v in device if v.tag in VALUES],
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
