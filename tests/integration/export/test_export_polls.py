"""Polls of a centre: by an independent SOAP client, by hand in every form, and by those who may not."""

import asyncio
import html
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest

from tests.integration.export.conftest import Export, Kit, ScriptedCentre

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
SOAP_ENCODING = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"
 targetNamespace="http://schemas.xmlsoap.org/soap/encoding/">
 <xs:complexType name="string"><xs:simpleContent><xs:extension base="xs:string"/></xs:simpleContent></xs:complexType>
</xs:schema>"""


def request(name: str, code: int, info: str) -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><Request><PK_Type><Name>{name}</Name><Code>{code}</Code></PK_Type>'
        f"<Info>{info}</Info></Request>"
    )


def ids(fsu: str, code: str | None = None) -> str:
    return f"<FsuId>{fsu}</FsuId><FsuCode>{code or fsu}</FsuCode>"


def all_points() -> str:
    return f'<DeviceList><Device Id="{"9" * 14}" Code="{"9" * 14}"/></DeviceList>'


class Poller:
    """A centre's client, by hand."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/services/FSUService"

    async def post(self, body: bytes, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await http.post(self.url, content=body, headers={"content-type": "text/xml", **headers}, timeout=30)

    async def ask(self, payload: str, *, soap_action: str = '""') -> ET.Element:
        body = (
            f'<S:Envelope xmlns:S="{ENVELOPE}"><S:Body><a:invoke xmlns:a="http://FSUService.chinatowercom.com">'
            f"<xmlData>{html.escape(payload)}</xmlData></a:invoke></S:Body></S:Envelope>"
        ).encode()
        response = await self.post(body, soapaction=soap_action)
        assert response.status_code == 200, response.text
        body_element = ET.fromstring(response.text).find(f"{{{ENVELOPE}}}Body")
        assert body_element is not None, response.text
        answered = body_element[0]
        assert answered.tag == "{http://FSUService.chinatowercom.com}invokeResponse"
        payload_text = answered.findtext("invokeReturn")
        assert payload_text is not None, response.text
        return ET.fromstring(payload_text.encode())


def result(answer: ET.Element) -> tuple[str | None, str | None, str | None]:
    return answer.findtext("PK_Type/Name"), answer.findtext("PK_Type/Code"), answer.findtext("Info/Result")


def values(answer: ET.Element) -> dict[str, tuple[str, str, str]]:
    return {
        each.attrib["Id"]: (each.attrib["Type"], each.attrib["MeasuredVal"], each.attrib["Status"])
        for each in answer.iter("TSemaphore")
    }


async def test_zeep_reads_our_description_and_the_latest_values(
    export: Export, centre: ScriptedCentre, kit: Kit
) -> None:
    zeep = pytest.importorskip("zeep", reason="a development dependency; missing only in a broken set-up")

    class Local(zeep.Transport):  # type: ignore[misc, name-defined]  # zeep ships without types
        """Zeep fetches the schema of SOAP's encoding from the network; here it is, by the same name."""

        def load(self, url: str) -> bytes:
            return SOAP_ENCODING.encode() if "schemas.xmlsoap.org/soap/encoding" in url else super().load(url)

    await export.connect(centre)
    await export.publish(kit.reading({"voltage_a": 228.4, "current_a": 1.0}))
    poller = Poller(export.unit_port)
    asked = request("GET_DATA", 401, ids(kit.fsu) + all_points())

    async def there() -> bool:
        return values(await poller.ask(asked)).get("0416104001") == ("3", "228.4", "0")

    await kit.until(there)

    def by_zeep() -> tuple[str, str]:
        transport = Local(timeout=5, operation_timeout=5)
        transport.session.trust_env = False
        with transport.session:
            client = zeep.Client(f"{poller.url}?wsdl", transport=transport)
            [service] = client.wsdl.services.values()
            [port] = service.ports.values()
            return port.binding_options["address"], client.service.invoke(xmlData=asked)

    address, text = await asyncio.to_thread(by_zeep)
    assert address == poller.url
    answer = ET.fromstring(text.encode())
    assert result(answer) == ("GET_DATA_ACK", "402", "1")
    assert values(answer) == {
        "0416104001": ("3", "228.4", "0"),
        "0416118001": ("3", "0", "6"),
        "0416001001": ("2", "0", "0"),
        "0416003001": ("2", "0", "0"),
    }


async def test_an_alarm_shows_in_the_values_while_it_holds(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await export.connect(centre)
    poller = Poller(export.unit_port)
    asked = request("GET_DATA", 401, ids(kit.fsu) + all_points())

    async def shows(state: tuple[str, str, str]) -> bool:
        return values(await poller.ask(asked))["0416003001"] == state

    await export.publish(kit.begin("a-1"))
    await kit.until(lambda: shows(("2", "1", "3")))
    await export.publish(kit.end("a-1"))
    await kit.until(lambda: shows(("2", "0", "0")))


@pytest.mark.sql
async def test_values_are_there_again_after_a_restart(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await export.connect(centre)
    await export.publish(kit.reading({"voltage_a": 230.5, "frequency": 50.0}))
    await export.stop()
    await export.start()
    answer = await Poller(export.unit_port).ask(request("GET_DATA", 401, ids(kit.fsu) + all_points()))
    assert values(answer)["0416104001"] == ("3", "230.5", "0")


@pytest.mark.sql
async def test_history_has_one_value_per_point_and_hour(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await export.connect(centre)
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    times = [hour - timedelta(minutes=50), hour - timedelta(minutes=20), hour]
    await export.publish(*(kit.reading({"voltage_a": 229.0 + n}, at=at) for n, at in enumerate(times)))
    poller = Poller(export.unit_port)
    span = f"<StartTime>{_local(times[0])}</StartTime><EndTime>{_local(hour)}</EndTime>"
    asked = request("GET_HISDATA", 403, ids(kit.fsu) + span + all_points())

    async def stored() -> bool:
        answer = await poller.ask(asked)
        found = [(each.get("MeasuredVal"), each.get("RecordTime")) for each in answer.iter("TSemaphore")]
        return found == [("229", _local(times[0])), ("231", _local(hour))]

    await kit.until(stored)
    backwards = asked.replace("StartTime", "X").replace("EndTime", "StartTime").replace("X", "EndTime")
    assert result(await poller.ask(backwards))[2] == "0"
    century = asked.replace(_local(times[0]), "1900-01-01 00:00:00")
    assert result(await poller.ask(century))[2] == "0"


@pytest.mark.sql
async def test_heartbeat_registration_and_time_are_answered(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await export.connect(centre)

    async def registered() -> bool:
        return bool((await export.unit())["phase"] == "registered")

    await kit.until(registered)
    poller = Poller(export.unit_port)
    status = await poller.ask(request("GET_FSUINFO", 1701, ids(kit.fsu)), soap_action='"invoke"')
    assert result(status) == ("GET_FSUINFO_ACK", "1702", "1")
    memory = status.findtext("Info/TFSUStatus/MEMUsage")
    assert memory is not None
    assert 0 <= float(memory) <= 100

    where = await poller.ask(request("GET_LOGININFO", 1501, ids(kit.fsu)))
    assert result(where)[2] == "1"
    assert where.findtext("Info/SCIP") == "127.0.0.1"
    assert [device.get("Id") for device in where.iter("Device")] == [kit.fsu, kit.meter]

    assert result(await poller.ask(_time(datetime.now(UTC)))) == ("TIME_CHECK_ACK", "1302", "1")
    assert result(await poller.ask(_time(datetime.now(UTC) + timedelta(hours=2))))[2] == "0"
    assert 7100 < (await export.unit())["clock_skew_s"] < 7300


async def test_the_same_clock_told_again_is_not_written_down_for_every_unit_again(
    export: Export, postgres_url: str, centre: ScriptedCentre, kit: Kit
) -> None:
    await export.connect(centre)
    poller = Poller(export.unit_port)
    ahead = timedelta(seconds=100)
    database = await asyncpg.connect(postgres_url)
    try:

        async def left_alone() -> bool:  # at the first telling it is not, nor where the way took some seconds
            await database.execute("update export.units set clock_skew_s = 7")
            assert result(await poller.ask(_time(datetime.now(UTC) + ahead)))[2] == "1"
            return bool((await export.unit())["clock_skew_s"] == 7)

        assert not await left_alone()
        await kit.until(left_alone)
        assert result(await poller.ask(_time(datetime.now(UTC) + 10 * ahead)))[2] == "0"
        assert (await export.unit())["clock_skew_s"] > 900, "another time is written down"
    finally:
        await database.close()


async def test_orders_are_refused_point_by_point_and_audited(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await export.connect(centre)
    poller = Poller(export.unit_port)
    point = '<TSemaphore Type="4" Id="0415202001" MeasuredVal="0" SetupVal="1" Status="0"/>'
    device = f'<Value><DeviceList><Device Id="{kit.meter}" Code="{kit.meter}">{point}</Device></DeviceList></Value>'
    answer = await poller.ask(request("SET_POINT", 1001, ids(kit.fsu) + device))
    assert result(answer) == ("SET_POINT_ACK", "1002", "0")
    assert [each.text for each in answer.findall("Info/DeviceList/Device/FailList/Id")] == ["0415202001"]
    assert answer.findall("Info/DeviceList/Device/SuccessList/Id") == []
    moved = await poller.ask(request("SET_LOGININFO", 1503, ids(kit.fsu) + "<SCIP>10.9.9.9</SCIP>"))
    assert result(moved)[2] == "0"
    assert result(await poller.ask(request("SET_FSUREBOOT", 1801, ids(kit.fsu))))[2] == "0"

    async def audited() -> bool:
        return [each["action"] for each in await _audit(export) if each["door"] == "sc"] == [
            "point.write",
            "registration.write",
            "unit.restart",
        ]

    await kit.until(audited)
    order = next(each for each in await _audit(export) if each["action"] == "point.write")
    refused = {"device": kit.meter, "point": "0415202001", "value": 1.0, "done": False, "reason": "not_permitted"}
    assert (order["actor"], order["succeeded"]) == ("sc:gd", False)
    assert order["after"] == {"orders": [refused], "count": 1}


async def test_a_centre_that_may_moves_its_unit(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await export.connect(centre, allow_write_registration=True)
    poller = Poller(export.unit_port)

    async def registered() -> bool:
        return bool((await export.unit())["phase"] == "registered")

    await kit.until(registered)
    bad = await poller.ask(request("SET_LOGININFO", 1503, ids(kit.fsu) + "<SCIP>http://10.9.9.9/</SCIP>"))
    assert result(bad)[2] == "0"
    moved = await poller.ask(request("SET_LOGININFO", 1503, ids(kit.fsu) + "<SCIP>127.0.0.9</SCIP>"))
    assert result(moved) == ("SET_LOGININFO_ACK", "1504", "1")
    assert (await export.unit())["assigned_address"] == "127.0.0.9"


UNANSWERABLE: list[tuple[str, int, str, str | None]] = [
    ("GET_FSUINFO", 1701, "44010643899999", None),  # unknown unit
    ("GET_FSUINFO", 1701, "44010643800017", "44010643800018"),  # wrong code
    ("GET_DATA", 501, "44010643800017", None),  # right name with wrong code
    ("EX_GET_CONFIG_FSU", 3001, "44010643800017", None),  # vendor's command
    ("GET_HISDATA", 403, "44010643800017", None),  # no time
]


async def test_what_cannot_be_answered_gets_a_well_formed_no(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await export.connect(centre)
    poller = Poller(export.unit_port)
    for name, code, fsu, fsu_code in UNANSWERABLE:
        answer = await poller.ask(request(name, code, ids(fsu, fsu_code) + all_points()))
        assert result(answer) == (f"{name}_ACK", str(code + 1), "0"), (name, code, fsu)
        assert answer.findtext("Info/FsuId") == fsu


async def test_hostile_bodies_get_a_fault_and_no_more(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    poller = Poller(export.unit_port)
    bomb = b'<!DOCTYPE a [<!ENTITY x "lol"><!ENTITY y "&x;&x;&x;&x;">]>'
    for body in (b"", b"\x00", b"<a/>", bomb + b"<a>&y;</a>", b"<a>" * 1000, b"x" * 5_000_000):
        response = await poller.post(body)
        assert response.status_code == 500
        fault = ET.fromstring(response.text).find(f".//{{{ENVELOPE}}}Fault")
        assert fault is not None, response.text
        assert fault.findtext("faultcode") == "soap:Client"
    async with httpx.AsyncClient(trust_env=False) as http:
        for path in ("/", "/services/", "/services/SCService", "/api/v1/sc-connections", "/metrics"):
            assert (await http.get(f"http://127.0.0.1:{export.unit_port}{path}")).status_code == 404
        strange = await http.get(f"{poller.url}?wsdl", headers={"host": 'evil"><x/>'})
        assert "evil" not in strange.text
        ET.fromstring(strange.text)


@pytest.mark.sql
async def test_an_address_that_is_not_allowed_gets_nothing(
    export: Export, centre: ScriptedCentre, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    await export.stop()
    monkeypatch.setenv("WATTRING_EXPORT__ALLOWED_PEERS", '["10.0.0.0/8"]')
    await export.start()
    poller = Poller(export.unit_port)
    assert (await poller.post(b"<a/>")).status_code == 403
    # Known by its registration address the centre may ask its own unit.
    await export.connect(centre)
    assert result(await poller.ask(request("GET_FSUINFO", 1701, ids(kit.fsu))))[2] == "1"


def _local(at: datetime) -> str:
    return (at + timedelta(hours=8)).strftime("%Y-%m-%d %H:%M:%S")


def _time(at: datetime) -> str:
    at += timedelta(hours=8)
    parts = {"Years": at.year, "Month": at.month, "Day": at.day, "Hour": at.hour, "Minute": at.minute,
             "Second": at.second}  # fmt: skip
    inner = "".join(f"<{name}>{value:02d}</{name}>" for name, value in parts.items())
    return request("TIME_CHECK", 1301, f"<Time>{inner}</Time>")


async def _audit(export: Export) -> list[dict[str, object]]:
    import orjson

    from libs.common.bus import topics
    from libs.common.bus.port import StartAt

    async with export.bus.tail([topics.AUDIT], StartAt(beginning=True)) as tail:
        found: list[dict[str, object]] = []
        while batch := await tail.fetch(max_messages=1000, timeout_s=0.5):
            for each in batch:
                assert each.value is not None
                found.append(orjson.loads(each.value))
    return found
