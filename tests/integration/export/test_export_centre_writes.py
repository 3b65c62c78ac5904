"""What a centre writes besides points and thresholds, at the real export with the real alarm beside it."""

import hashlib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from libs.common.client import http_client
from libs.common.clock import SystemClock
from libs.fieldsim.sc import draft
from libs.fieldsim.sc.server import Policy, SupervisionCentre
from libs.fieldsim.sc.spec import DRAFT
from tests.integration.export.alarm_process import export_with_alarm
from tests.integration.export.conftest import Answer, Export, Heard, Kit, ScriptedCentre, ack
from tests.integration.export.test_export_dialects import ask, connect, mapping
from tests.integration.export.test_export_polls import _audit

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

FSU, DEVICE, SIGNAL, VALUE = "CMFSU1", "00001", "092004-001", "092301"
YES = "<Result>1</Result><FailureCause>NULL</FailureCause>"


async def agrees(heard: Heard) -> Answer:
    """Say yes to everything, as a centre of dialect M."""
    return f"<Response><PK_Type><Name>{heard.name}_ACK</Name></PK_Type><Info>{YES}</Info></Response>"


async def permit(export: Export, connection: str, *kinds: str, points: Any = ({},)) -> None:
    permits = {"kinds": list(kinds), "points": list(points)}
    await export.api("PUT", f"/sc-connections/{connection}/permits", {"permits": permits, "source": "agreement 9"})


async def audited(export: Export, action: str) -> list[dict[str, Any]]:
    return [one for one in await _audit(export) if one["action"] == action]


def description(name: str, threshold: str, level: str = "2", device: str = DEVICE) -> str:
    signal = (
        f'<Signal Type="4" ID="092004" SignalName="欠压" SignalNumber="001" AlarmLevel="{level}" '
        f'Thresbhold="{threshold}" NMAlarmID="60000000000001"/>'
    )
    return (
        f'<Device DeviceID="{device}" DeviceName="{name}" SiteID="440106" Brand="CHINT">'
        f'<Signals Count="1">{signal}</Signals></Device>'
    )


def lists(answer: ET.Element) -> tuple[str | None, list[str | None], list[str | None]]:
    done, failed = (
        [each.get("ID") for each in answer.findall(f"Info/{name}/Device")] for name in ("SuccessList", "FailList")
    )
    return answer.findtext("Info/Result"), done, failed


async def test_a_centre_of_m_describes_devices_and_gives_accounts_as_far_as_it_may(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    centre = ScriptedCentre(script=agrees, namespace="http://LSCService.chinamobile.com")
    await centre.start()
    try:
        async with export_with_alarm(postgres_url, tmp_path, monkeypatch) as export:
            await connect(export, centre, "M", FSU, mapping(DEVICE, SIGNAL, VALUE))
            await Kit.until(lambda: _heard(centre, "SEND_DEV_CONF_DATA", 1))
            await _describes(export, centre)
            await _gives_an_account(export, centre)
            await _sets_the_heartbeat_of_all(export)
    finally:
        await centre.stop()


async def _heard(centre: ScriptedCentre, name: str, count: int) -> bool:
    return len(centre.named(name)) >= count


async def _describes(export: Export, centre: ScriptedCentre) -> None:
    async def write(*devices: str) -> tuple[str | None, list[str | None], list[str | None]]:
        body = f"<FSUID>{FSU}</FSUID><Values>{''.join(devices)}</Values>"
        return lists((await ask(export, "FSUService", "SET_DEV_CONF_DATA", None, body))[1])

    before = await export.api("GET", f"/mappings/m/{FSU}")
    assert await write(description("一号柜", "170")) == ("0", [], [DEVICE])
    # Descriptions are permitted, thresholds are not: a device is taken whole or not at all.
    await permit(export, "m", "device_config")

    async def only_thresholds_are_refused() -> bool:  # alarm has to have heard of the meter
        assert await write(description("一号柜", "170")) == ("0", [], [DEVICE])
        return any(one["reason"] == "threshold_refused" for one in await audited(export, "device_config.write"))

    await Kit.until(only_thresholds_are_refused)
    assert await export.api("GET", f"/mappings/m/{FSU}") == before
    await permit(export, "m", "device_config", "threshold")

    async def taken() -> bool:
        return await write(description("一号柜", "170"), description("x", "170", device="00009")) == (
            "0", [DEVICE], ["00009"]
        )  # fmt: skip

    await Kit.until(taken)
    # Said again it is the same; what was said is told, here and to the centre.
    [device] = (await export.api("GET", f"/mappings/m/{FSU}"))["devices"]
    assert (device["name"], device["details"]) == ("一号柜", {"site_id": "440106", "brand": "CHINT"})
    points = {one["point_id"]: one for one in (await export.api("GET", f"/mappings/m/{FSU}"))["points"]}
    assert (points[SIGNAL]["name"], points[SIGNAL]["level"]) == ("欠压", 2)
    orders = len(await audited(export, "threshold.write"))
    assert await write(description("一号柜", "170")) == ("1", [DEVICE], [])
    assert len(await audited(export, "threshold.write")) == orders, "nothing was to be set"
    asked = f"<FSUID>{FSU}</FSUID><DeviceID>{DEVICE}</DeviceID>"
    _, told = await ask(export, "FSUService", "GET_DEV_CONF", None, asked)
    [found] = told.findall("Info/Values/Device")
    assert (found.get("DeviceName"), found.get("SiteID"), found.get("RoomID")) == ("一号柜", "440106", "")
    [signal] = [one for one in found.iter("Signal") if one.get("ID") == "092004"]
    names = ("SignalName", "SignalNumber", "AlarmLevel", "Threshold", "NMAlarmID")
    assert [signal.get(name) for name in names] == ["欠压", "001", "2", "170", "60000000000001"]
    # An alarm of the signal has the level and the network's id of it, its END too.
    await export.publish(Kit.begin("a-1"), Kit.end("a-1"))
    await Kit.until(lambda: _heard(centre, "SEND_ALARM", 2))
    alarms = [alarm for heard in centre.named("SEND_ALARM") for alarm in heard.alarms()]
    assert [(one["AlarmFlag"], one["NMAlarmID"], one["AlarmLevel"]) for one in alarms] == [
        ("BEGIN", "60000000000001", "2"), ("END", "60000000000001", "2")
    ]  # fmt: skip
    # What alarm refuses, what nobody can read and what names no device changes nothing.
    for wrong in (description("y", "1000000"), description("y", "high"), description("y", "170", level="9"), ""):
        assert (await write(wrong))[:2] == ("0", [])
    assert (await export.api("GET", f"/mappings/m/{FSU}"))["devices"][0]["name"] == "一号柜"
    [refused, *_] = [one for one in await audited(export, "device_config.write") if not one["succeeded"]]
    assert (refused["door"], refused["actor"]) == ("sc", "sc:m")


async def _gives_an_account(export: Export, centre: ScriptedCentre) -> None:
    account = "<UserName>cmcc-2</UserName><PassWord>new-secret</PassWord>"

    async def give(body: str = account, path: str = "FSUService") -> str | None:
        _, answer = await ask(export, path, "SET_LOGININFO", None, body)
        return answer.findtext("Info/Result")

    assert await give() == "0", "nobody has permitted it"
    await permit(export, "m", "login_account")
    assert await give(f"<FSUID>SOMEBODY</FSUID>{account}") == "0"
    assert await give("<UserName/><PassWord/>") == "0"
    assert [await give(), await give()] == ["1", "1"]
    before = len(centre.named("LOGIN"))
    await export.stop()
    await export.start()  # a session goes on over a restart; the unit is made to log in by a change of its devices
    table = mapping(DEVICE, SIGNAL, VALUE)
    table["devices"].append({"device_id": "00002", "name": "more"})
    await export.api("PUT", f"/mappings/m/{FSU}", table)
    await Kit.until(lambda: _heard(centre, "LOGIN", before + 1))
    login = centre.named("LOGIN")[-1].info
    digest = hashlib.md5(b"new-secret", usedforsecurity=False).hexdigest()
    assert (login.findtext("UserName"), login.findtext("PassWord")) == ("cmcc-2", digest)
    records = await audited(export, "login_account.write")
    assert {one["succeeded"] for one in records} == {True, False}
    assert "new-secret" not in str(records)
    # Two connections of one peer: whose account is meant, only a unit's own path says.
    other = {"id": "m2", "name": "m2", "dialect": "M", "url": centre.url, "account": {"username": "u", "password": "p"}}
    await export.api("POST", "/sc-connections", other)
    await export.api("PUT", "/sc-connections/m2/units/CMFSU2", {"name": "二号站", "sites": ["s-1"]})
    assert await give() == "0"
    assert await give(path=f"FSUService/{FSU}") == "1"
    await export.api("DELETE", "/sc-connections/m2/units/CMFSU2")


async def _sets_the_heartbeat_of_all(export: Export) -> None:
    _, answer = await ask(
        export, "FSUService", "UPDATE_FSUINFO_INTERVAL", None, "<FSUID>NULL</FSUID><Interval>120</Interval>"
    )
    assert answer.findtext("Info/Result") == "1"
    _, answer = await ask(
        export, "FSUService", "UPDATE_FSUINFO_INTERVAL", None, "<FSUID>NULL</FSUID><Interval>999999</Interval>"
    )
    assert answer.findtext("Info/Result") == "0"


SUID, FEEDER = "44010600000000001", "2020001"
OVER, MEASURED = "220200010010", "230200050020"
OPTIONS = f"""<StdSPConfigOptionDic Name="province" Version="3"><DeviceType TypeID="020" DeviceHLType="2">
    <Signal SPID="{OVER}">
        <Option OptionID="1" AlarmLevel="2" AlarmThreshold="170" StartDelay="45" EndDelay="15" Hysteresis="3"/>
        <Option OptionID="2" AlarmLevel="3" AlarmThreshold="165" StartDelay="30" EndDelay="15" Hysteresis="3"/>
        <Option OptionID="3" AlarmThreshold="1000000"/>
        <Option OptionID="4" AlarmThreshold="160" Period="300"/>
    </Signal>
    <Signal SPID="{MEASURED}"><Option OptionID="5" Period="3600"/></Signal>
</DeviceType></StdSPConfigOptionDic>"""


async def test_a_centre_of_y_chooses_among_its_own_options(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(spec=DRAFT, strict=True, time_check_at_login=False)
    centre = SupervisionCentre(clock=SystemClock(), policy=policy)
    await centre.start()
    try:
        async with export_with_alarm(postgres_url, tmp_path, monkeypatch) as export:
            centre.unit_urls["*"] = f"http://127.0.0.1:{export.unit_port}/services/SUService"
            await connect(export, centre, "Y", SUID, mapping(FEEDER, OVER, MEASURED))
            await _chooses(export, centre)
    finally:
        await centre.stop()


async def _chooses(export: Export, centre: SupervisionCentre) -> None:
    async def used() -> dict[str, str] | None:
        answer = await centre.call(SUID, "GET_SPCONFIGOPTION", draft.get_options(SUID))
        if answer.message is None or answer.result != "1":
            return None
        found = answer.message.info.iter("TConfigOption")
        return {one.get("SPID", ""): one.get("OptionID", "") for one in found}

    async def choose(option: str, point: str = OVER) -> str | None:
        answer = await centre.call(SUID, "SET_SPCONFIGOPTION", draft.set_option(SUID, FEEDER, point, option))
        return answer.result

    assert await used() == {OVER: "1", MEASURED: "1"}, "without templates each point has its own one"
    assert [await choose("1"), await choose("2")] == ["1", "0"]
    place = "/sc-connections/y/options"
    assert (await _put(export, place, OPTIONS.replace('"45"', '"soon"')))["code"] == "invalid_file"
    stored = await _put(export, place, OPTIONS)
    assert (stored["name"], len(stored["options"][OVER])) == ("province", 4)
    assert (await export.api("GET", place))["source"] == "letter of 2026-11-22"

    async def nothing_in_use() -> bool:
        return await used() == {MEASURED: "5"}

    await Kit.until(nothing_in_use)  # alarm holds what no template says
    assert [await choose("1"), await choose("5", MEASURED)] == ["0", "1"], "what is in use needs no permit"
    await permit(export, "y", "threshold", points=[{"point": OVER, "unit": "V"}])

    async def taken() -> bool:
        return await choose("1") == "1"

    await Kit.until(taken)
    assert await used() == {OVER: "1", MEASURED: "5"}
    points = {one["point_id"]: one for one in (await export.api("GET", f"/mappings/y/{SUID}"))["points"]}
    assert points[OVER]["level"] == 2
    # Another one, the same again; what alarm refuses, what is stored otherwise, and what there is not.
    assert [await choose(option) for option in ("2", "2", "3", "4", "9")] == ["1", "1", "0", "0", "0"]
    assert (await used() or {})[OVER] == "2"
    await _put(export, place, OPTIONS, ignores_storage="true")
    assert await choose("4") == "1"
    assert (await used() or {})[OVER] == "4"
    reasons = {one["reason"] for one in await audited(export, "option.write") if not one["succeeded"]}
    assert {"not_permitted", "no_such_option", "cannot_be"} <= reasons
    await export.api("DELETE", place)
    assert await used() == {OVER: "1", MEASURED: "1"}
    await export.api("GET", place, status=404)


async def _put(export: Export, path: str, text: str, **params: str) -> Any:
    token = export.keys.sign_token("gateway", audience="export", subject="wang", kind="user", scopes=["export:*"])
    async with http_client(f"http://127.0.0.1:{export.api_port}", "export") as http:
        answer = await http.put(
            f"/api/v1{path}", content=text.encode(), params={"source": "letter of 2026-11-22", **params},
            headers={"authorization": f"Bearer {token}", "content-type": "application/xml"}, timeout=10,
        )  # fmt: skip
    return answer.json()


async def test_a_centre_of_u_reads_and_sets_delays(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    centre = ScriptedCentre(script=says_yes, namespace="http://SUService.chinaunicom.com")
    await centre.start()
    try:
        async with export_with_alarm(postgres_url, tmp_path, monkeypatch) as export:
            await connect(export, centre, "U", "4401", mapping("41901", "10A", "101"))
            await _delays(export)
    finally:
        await centre.stop()


async def says_yes(heard: Heard) -> Answer:
    return ack(heard.name, int(heard.code), "<Result>1</Result>")


async def _delays(export: Export) -> None:
    ids = "<SUId>4401</SUId><SURId>4401</SURId>"

    async def held() -> dict[str | None, tuple[str | None, str | None]]:
        _, answer = await ask(export, "SUService", "GET_AlarmProperty", 1101, ids)
        return {one.get("Id"): (one.findtext("BDelay"), one.findtext("EDelay")) for one in answer.iter("Signal")}

    async def order(*signals: str) -> tuple[str | None, list[str | None]]:
        listed = f'<DeviceList><Device Id="41901" Rid="41901">{"".join(signals)}</Device></DeviceList>'
        _, answer = await ask(export, "SUService", "SET_AlarmProperty", 1103, ids + listed)
        done = [each.get("Id") for each in answer.findall("Info/DeviceList/Device/SuccessList/Signal")]
        return answer.findtext("Info/Result"), done

    async def known() -> bool:
        return set(await held()) == {"10A"}

    await Kit.until(known)
    before = (await held())["10A"]
    wanted = '<Signal Id="10A"><BDelay>45</BDelay></Signal>'
    assert await order(wanted) == ("0", []), "nobody has permitted it"
    await permit(export, "u", "threshold")

    async def taken() -> bool:
        return await order(wanted) == ("1", ["10A"])

    await Kit.until(taken)
    assert await held() == {"10A": ("45", before[1])}
    assert await order('<Signal Id="10A"><EDelay>15</EDelay></Signal>') == ("1", ["10A"])
    assert await held() == {"10A": ("45", "15")}
    for wrong in ('BDelay="soon"', 'BDelay="-1"', 'BDelay="1e9"', ""):
        assert await order(f'<Signal Id="10A" {wrong}/>') == ("0", [])
    assert await order(wanted, '<Signal Id="10A"><BDelay>46</BDelay></Signal>') == ("0", [])
    assert await order('<Signal Id="101"><BDelay>1</BDelay></Signal>') == ("0", [])
    assert await held() == {"10A": ("45", "15")}
    records = await audited(export, "delay.write")
    assert {one["succeeded"] for one in records} == {True, False}
