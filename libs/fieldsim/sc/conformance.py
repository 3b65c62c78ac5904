"""Examines a unit over the wire: every command of its dialect, forms of the field, and what it has to refuse.

Nothing is switched. Orders go to a device that cannot exist, or to a unit of zeros; the unit has to refuse them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lxml import etree

from libs.common.clock import CIVIL_ZONE, Clock
from libs.fieldsim.sc import draft, messages
from libs.fieldsim.sc.attacks import attacks, forms
from libs.fieldsim.sc.catalogue import Evidence, Finding, Rule, Severity
from libs.fieldsim.sc.client import Answer, UnitClient
from libs.fieldsim.sc.replies import INVALID, Asked, pair, values_of
from libs.fieldsim.sc.soap import element, masked, payload, request_envelope
from libs.fieldsim.sc.spec import Spec

HISTORY_SPAN = timedelta(hours=2)
EXPLICIT = 3
"""Points that are asked for by name."""
UNKNOWN_COMMAND = ("EX_GET_CONFIG_FSU", 3001)
"""A vendor's command that stands in no text."""
WRONG_PAIRS: Mapping[str, Sequence[tuple[str, int]]] = {
    "T": (("GET_DATA", 501), ("GET_FSUINFO", 1001), ("GET_FSUINFO", 9999)),
    "Y": (("GET_DATA", 401), ("GET_DATA", 601), ("GET_SUINFO", 1701)),
}
"""Names with the code of another command, or of another dialect's."""
NOT_AT_ALL = "0" * 17
"""Ids of what does not exist are cut from this."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried."""

    title: str
    title_zh: str
    command: str
    findings: Sequence[Finding]
    answered: bool
    result: str | None
    duration_ms: float
    message: str | None = None
    """The unit's answer with its passwords masked, when something is held against it."""

    @property
    def outcome(self) -> str:
        """Return ``passed``, ``unconfirmed`` or ``violation``."""
        found = {finding.severity for finding in self.findings}
        worst = next((each for each in (Severity.VIOLATION, Severity.UNCONFIRMED) if each in found), None)
        return "passed" if worst is None else worst.value


@dataclass(slots=True)
class Examination:
    """Runs all steps against one unit.

    Args:
        client: Calls it, in the dialect to be judged by.
        url: Of the unit's service.
        unit_id: Its id.
        clock: Ours.
        trap_url: What hostile messages name.
        trapped: What was fetched there.
    """

    client: UnitClient
    url: str
    unit_id: str
    clock: Clock
    trap_url: str
    trapped: Sequence[str]
    steps: list[Step] = field(default_factory=list)

    @property
    def spec(self) -> Spec:
        """The dialect."""
        return self.client.spec

    async def run(self) -> list[Step]:
        """Do every step and return them in order; a unit that is away ends it after the first."""
        await self._heartbeat()
        if not self.steps[-1].answered:
            return self.steps
        for ask in (self._reads, self._values, self._orders, self._refusals, self._forms, self._attacks):
            await ask()
        return self.steps

    # ---- what every unit answers ---------------------------------------------------------------------------

    async def _heartbeat(self, title: str = "heartbeat", title_zh: str = "心跳") -> None:
        def agrees(answer: Answer) -> list[Finding]:
            if answer.message is None or answer.result == "1":
                return []
            return [self.spec.found(Rule.UNIT_ID, "its own id is refused", "以自身ID询问被拒绝")]

        await self._ask(
            title, title_zh, self.spec.heartbeat, self._plain(self.spec.heartbeat), Asked(self.unit_id), agrees
        )

    async def _reads(self) -> None:
        now, unit = self.clock.now(), self.unit_id
        asked = Asked(unit)
        if self.spec.name == "T":
            await self._ask("time", "校时", "TIME_CHECK", messages.time_check(now), Asked())
            await self._ask("registration", "注册信息", "GET_LOGININFO", self._plain("GET_LOGININFO"), asked)
            await self._ask("file account", "FTP账号", "GET_FTP", self._plain("GET_FTP"), asked)
            everything = Asked(unit, messages.EVERYTHING)
            await self._ask("thresholds", "门限", "GET_THRESHOLD", messages.get_threshold(unit), everything)
            since = now - HISTORY_SPAN
            history = Asked(unit, messages.EVERYTHING, since - timedelta(seconds=1), now)
            await self._ask("history", "历史数据", "GET_HISDATA", messages.get_hisdata(unit, since, now), history)
            return
        await self._ask("time", "校时", "SET_TIME", draft.set_time(unit, now), asked)
        await self._ask("file account", "FTP账号", "GET_SUFTP", self._plain("GET_SUFTP"), asked)
        await self._ask("options", "配置选项", "GET_SPCONFIGOPTION", draft.get_options(unit), asked)
        await self._ask("active alarms", "当前告警", "GET_ACTIVEALARM", self._plain("GET_ACTIVEALARM"), asked)
        for name in ("GET_SCHEMECONFIG", "GET_FACTORYCONFIG"):
            await self._ask("configuration", "配置文件", name, self._plain(name), asked)
        today = Asked(unit, draft.EVERYTHING, _midnight(now), now)
        text = draft.get_data(unit, name="ASK_TODAYHISDATA")
        await self._ask("values of today", "当日数据", "ASK_TODAYHISDATA", text, today)

    async def _values(self) -> None:
        spec = self.spec
        all_devices, all_points = "9" * spec.device_digits, "9" * spec.point_digits
        known: dict[str, list[str]] = {}

        def has_all(answer: Answer) -> list[Finding]:
            if answer.message is not None:
                known.update(self._ids(answer))
            if answer.message is None or answer.result == "1":
                return []
            return [spec.found(Rule.WILDCARD, "all nines are refused", "全9查询被拒绝")]

        everything = {all_devices: (all_points,)}
        await self._read_values("all points of all devices", "全部设备全部监控点", everything, has_all)
        filled = {device: ids for device, ids in known.items() if ids}
        if not filled:
            return
        device, ids = next(iter(filled.items()))

        def same(answer: Answer) -> list[Finding]:
            if answer.message is None:
                return []
            found = {place: sorted(points) for place, points in self._ids(answer).items() if points}
            wanted = {device: sorted(ids)}
            if found == wanted:
                return []
            return [
                spec.found(
                    Rule.WILDCARD,
                    f"all points of device {device} are {found}, by the wildcard of all devices {wanted}",
                    f"设备 {device} 的全部监控点与全部设备查询的结果不同",
                )
            ]

        def ignored(answer: Answer) -> list[Finding]:
            found = {} if answer.message is None else self._ids(answer)
            if answer.message is None or _sorted(found) == _sorted(known):
                return []
            return [spec.found(Rule.WILDCARD, "beside the wildcard an id list counts", "设备全9时仍按ID列表筛选")]

        await self._read_values("all points of a device", "单台设备全部监控点", {device: (all_points,)}, same)
        await self._read_values("the id list beside a wildcard", "设备全9时的ID列表", {all_devices: (ids[0],)}, ignored)
        await self._read_values("points by their ids", "按ID查询", {device: tuple(ids[:EXPLICIT])})
        nobody = NOT_AT_ALL[: spec.point_digits]

        def invalid(answer: Answer) -> list[Finding]:
            if answer.message is None:
                return []
            states = [
                value.get("Status")
                for values in values_of(answer.message.info, spec).values()
                for value in values
                if value.get(spec.point_name) == nobody
            ]
            if all(state == INVALID for state in states):
                return []
            return [spec.found(Rule.SELECTION, f"an unknown point has state {states}", f"未知监控点状态为 {states}")]

        await self._read_values("a point that is not there", "不存在的监控点", {device: (nobody,)}, invalid)

    async def _orders(self) -> None:
        spec, unit = self.spec, self.unit_id
        device, point = NOT_AT_ALL[: spec.device_digits], NOT_AT_ALL[: spec.point_digits]
        asked = Asked(unit, orders=((device, point),))

        def refused(answer: Answer) -> list[Finding]:
            if answer.message is None or answer.result == "0":
                return []
            text = "an order to a device that does not exist is not refused"
            return [spec.found(Rule.ORDER_OUTCOME, text, "对不存在设备的控制未被拒绝", evidence=Evidence.RECONSTRUCTED)]

        if spec.name == "T":
            orders = {
                "SET_POINT": messages.set_point(unit, device, point, 0),
                "SET_THRESHOLD": messages.set_threshold(unit, device, point, 0.0),
            }
        else:
            orders = {
                "SET_RMCTRLCMD": draft.set_control(unit, device, point, 0),
                "SET_SPCONFIGOPTION": draft.set_option(unit, device, point, "1"),
            }
        for name, text in orders.items():
            await self._ask("an order to nobody", "对不存在设备的控制", name, text, asked, refused)

    # ---- what every unit refuses ----------------------------------------------------------------------------

    async def _refusals(self) -> None:
        spec = self.spec
        stranger = NOT_AT_ALL[: spec.unit_digits]
        orders = ("SET_LOGININFO", "SET_FTP", "SET_FSUREBOOT") if spec.name == "T" else (
            "SET_SCIP", "SET_SUFTP", "SET_SUREBOOT", "SET_SCHEMECONFIG", "SET_FACTORYCONFIG"
        )  # fmt: skip
        for name in (spec.heartbeat, spec.read_values, *orders):
            text = payload("Request", name, spec.codes[name], self._about(stranger))
            await self._must_refuse("another unit's id", "其他FSU的ID", name, spec.codes[name], text, Rule.WRONG_UNIT)
        name, code = UNKNOWN_COMMAND
        text = payload("Request", name, code, self._about(self.unit_id))
        await self._must_refuse("an unknown command", "未知命令", name, code, text, Rule.UNKNOWN_COMMAND)
        for name, code in WRONG_PAIRS[spec.name]:
            text = payload("Request", name, code, self._about(self.unit_id))
            await self._must_refuse(f"code {code}", f"编码 {code}", name, code, text, Rule.WRONG_PAIR)

    async def _must_refuse(self, title: str, title_zh: str, name: str, code: int, text: str, rule: Rule) -> None:
        spec = self.spec
        began_s = self.clock.monotonic()
        answer = self.client.read(await self.client.post(self.url, request_envelope(spec.unit_namespace, text)))
        findings = list(answer.findings)
        if answer.message is None:
            # Silence, a fault or an empty answer: the rule broken is that there is a well-formed no.
            findings = [spec.found(rule, each.text, each.text_zh) for each in findings]
        elif answer.result != "0":
            shown = f"{answer.message.name} {answer.message.code} Result {answer.result}"
            findings.append(spec.found(rule, f"answered {shown}", f"应答为 {shown}"))
        else:
            wrong = pair(answer.message, name, code, spec)
            findings += [spec.found(rule, each.text, each.text_zh, evidence=Evidence.RECONSTRUCTED) for each in wrong]
        self._done(title, title_zh, name, findings, answer, began_s)

    async def _forms(self) -> None:
        spec = self.spec
        for form in forms(spec.unit_namespace, self._plain(spec.heartbeat)):
            began_s = self.clock.monotonic()
            answer = await self.client.call(
                self.url,
                spec.heartbeat,
                "",
                asked=Asked(self.unit_id),
                body=form.body,
                soap_action=form.soap_action,
            )
            findings = []
            if answer.message is None or answer.result != "1":
                seen = answer.findings[0].text if answer.findings else f"Result {answer.result}"
                text, text_zh = f"not taken as {form.title}: {seen}", f"不接受{form.title_zh}：{seen}"
                findings.append(spec.found(Rule.WIRE_FORM, text, text_zh, evidence=form.evidence))
            self._done(form.title, form.title_zh, spec.heartbeat, findings, answer, began_s)

    async def _attacks(self) -> None:
        spec = self.spec
        for attack in attacks(spec.unit_namespace, self._plain(spec.heartbeat), self.trap_url):
            began_s, fetched = self.clock.monotonic(), len(self.trapped)
            posted = await self.client.post(self.url, attack.body)
            answer = self.client.read(posted)
            findings: list[Finding] = []

            def note(text: str, text_zh: str, evidence: Evidence | None = None, into: list[Finding] = findings) -> None:
                into.append(spec.found(Rule.HOSTILE_XML, text, text_zh, evidence=evidence))

            if posted.status is None and "Timeout" in posted.reason:
                note(f"no answer in time: {posted.reason}", "限时内无应答")
            elif posted.status is None and not attack.may_close:
                note(f"no answer: {posted.reason}", "无应答", Evidence.RECONSTRUCTED)
            elif answer.message is not None and answer.result != "0":
                shown = f"{answer.message.name} Result {answer.result}"
                note(f"taken: {shown}", f"被接受：{shown}", attack.evidence)
            if len(self.trapped) > fetched:
                note("it fetched what the message named", "设备访问了报文中的外部地址")
            self._done(attack.title, attack.title_zh, spec.heartbeat, findings, answer, began_s)
        await self._heartbeat("alive after all that", "攻击后仍正常应答")
        if not self.steps[-1].answered:
            gone = spec.found(Rule.HOSTILE_XML, "it answers no longer", "设备不再应答")
            self.steps.append(Step("still alive", "仍在线", spec.heartbeat, [gone], False, None, 0.0))

    # ---- one question ----------------------------------------------------------------------------------------

    async def _read_values(
        self,
        title: str,
        title_zh: str,
        points: Mapping[str, Sequence[str]],
        judge: Callable[[Answer], list[Finding]] | None = None,
    ) -> None:
        maker = messages.get_data if self.spec.name == "T" else draft.get_data
        await self._ask(
            title, title_zh, self.spec.read_values, maker(self.unit_id, points), Asked(self.unit_id, points), judge
        )

    async def _ask(
        self,
        title: str,
        title_zh: str,
        name: str,
        text: str,
        asked: Asked,
        judge: Callable[[Answer], list[Finding]] | None = None,
    ) -> None:
        began_s = self.clock.monotonic()
        answer = await self.client.call(self.url, name, text, asked=asked)
        findings = [*answer.findings, *(judge(answer) if judge is not None else ())]
        self._done(title, title_zh, name, findings, answer, began_s)

    def _done(
        self, title: str, title_zh: str, name: str, findings: Sequence[Finding], answer: Answer, began_s: float
    ) -> None:
        self.steps.append(
            Step(
                title=title,
                title_zh=title_zh,
                command=name,
                findings=tuple(findings),
                answered=answer.message is not None,
                result=answer.result,
                duration_ms=1000 * (self.clock.monotonic() - began_s),
                message=masked(answer.text) if findings else None,
            )
        )

    def _plain(self, name: str) -> str:
        return payload("Request", name, self.spec.codes[name], self._about(self.unit_id))

    def _about(self, unit_id: str) -> list[etree._Element]:
        return [element(name, unit_id) for name in self.spec.unit_names]

    def _ids(self, answer: Answer) -> dict[str, list[str]]:
        if answer.message is None:
            return {}
        found = values_of(answer.message.info, self.spec)
        return {device: [value.get(self.spec.point_name, "") for value in values] for device, values in found.items()}


def _sorted(ids: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {device: sorted(points) for device, points in ids.items()}


def _midnight(now: datetime) -> datetime:
    return now.astimezone(CIVIL_ZONE).replace(hour=0, minute=0, second=0, microsecond=0)
