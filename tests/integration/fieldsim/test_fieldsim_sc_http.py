"""The supervision centre on a real socket, spoken to in raw HTTP, and its calls to a unit that is a stub."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import NotFound
from libs.fieldsim.sc import messages
from libs.fieldsim.sc.catalogue import Rule
from libs.fieldsim.sc.faults import parse_order
from libs.fieldsim.sc.httpserver import HttpServer, Reply, Request
from libs.fieldsim.sc.server import Policy, SupervisionCentre
from libs.fieldsim.sc.soap import UNIT_NAMESPACE, element, parse_payload, reply_envelope, unwrap

pytestmark = pytest.mark.integration

PATIENCE_S = 10.0
UNIT = "44010643800017"
DEVICE = "44010641600021"

ENVELOPE = """<?xml version="1.0" encoding="UTF-8"?>
<soap:Envelope xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/"
               xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
               xmlns:xsd="http://www.w3.org/2001/XMLSchema">
  <soap:Body soap:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">
    <ns1:invoke xmlns:ns1="http://SCService.chinatowercom.com">
      <xmlData xsi:type="xsd:string">{}</xmlData>
    </ns1:invoke>
  </soap:Body>
</soap:Envelope>"""
LOGIN = f"""<?xml version="1.0" encoding="UTF-8"?>
<Request><PK_Type><Name>LOGIN</Name><Code>101</Code></PK_Type><Info><UserName>secret-user</UserName>
<PaSCword>secret-word</PaSCword><FsuId>{UNIT}</FsuId><FsuCode>{UNIT}</FsuCode><FsuIP>127.0.0.1</FsuIP><MacId/><ImsiId/>
<NetworkType>4G</NetworkType><LockedNetworkType>LTE</LockedNetworkType><Carrier>CT</Carrier><NMVendor/><NMType/>
<Reg_Mode>2</Reg_Mode><FSUVendor>DEMO</FSUVendor><FSUType>METER-GW-1</FSUType><FSUClass>INTSTAN</FSUClass>
<Version>1.0.0</Version><DictVersion>1</DictVersion><DeviceList><Device Id="{UNIT}" Code="{UNIT}"/>
<Device Id="{DEVICE}" Code="{DEVICE}"/></DeviceList></Info></Request>"""
ALARM = """<Request><PK_Type><Name>SEND_ALARM</Name><Code>501</Code></PK_Type><Info><Values><TAlarmList><TAlarm>
<SerialNo>{serial}</SerialNo><Id>0416001001</Id><FsuId>44010643800017</FsuId><FsuCode>44010643800017</FsuCode>
<DeviceId>44010641600021</DeviceId><DeviceCode>44010641600021</DeviceCode><AlarmTime>2025-03-08 14:02:11</AlarmTime>
<AlarmLevel>3</AlarmLevel><AlarmFlag>{flag}</AlarmFlag><AlarmDesc>停电(0.0V)</AlarmDesc>
</TAlarm></TAlarmList></Values></Info></Request>"""


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def envelope(payload: str) -> bytes:
    return ENVELOPE.format(escaped(payload)).encode()


def alarm(flag: str = "BEGIN", serial: str = "0000000731") -> bytes:
    return envelope(ALARM.format(flag=flag, serial=serial))


def post(body: bytes, *headers: str, version: str = "1.1") -> bytes:
    head = [
        f"POST /services/SCService HTTP/{version}",
        "Host: 127.0.0.1",
        "Content-Type: text/xml; charset=utf-8",
        'SOAPAction: ""',
        *(headers or (f"Content-Length: {len(body)}",)),
    ]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


@pytest.fixture
async def centre() -> AsyncIterator[SupervisionCentre]:
    running = SupervisionCentre(clock=SystemClock())
    await running.start()
    yield running
    await running.stop()


def port(centre: SupervisionCentre) -> int:
    return int(centre.url.split(":")[2].split("/")[0])


async def exchange(centre: SupervisionCentre, *requests: bytes) -> bytes:
    """Send requests on one connection, return everything that comes until it ends or is quiet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(centre))
    got = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            for request in requests:
                writer.write(request)
                got += await answer_of(reader)
    finally:
        writer.close()
    return got


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return head + await reader.readexactly(length)


async def result(centre: SupervisionCentre, body: bytes) -> tuple[str, int | None, str | None]:
    """Name, code and Result of the answer to one message."""
    got = await exchange(centre, post(body))
    assert got.startswith(b"HTTP/1.1 200")
    message = parse_payload(unwrap(got.partition(b"\r\n\r\n")[2], argument="invokeReturn")[1])
    return message.name, message.code, message.value("Result")


class TestHttp:
    async def test_login_and_alarm_on_one_connection(self, centre: SupervisionCentre) -> None:
        got = await exchange(centre, post(envelope(LOGIN)), post(alarm()), post(alarm("END")))
        assert got.count(b"HTTP/1.1 200") == 3
        assert b"LOGIN_ACK" in got
        assert b"&lt;RightLevel&gt;2&lt;/RightLevel&gt;" in got
        assert got.count(b"&lt;Result&gt;1&lt;/Result&gt;") == 2
        assert b'<ns1:invokeResponse xmlns:ns1="http://SCService.chinatowercom.com">' in got
        entries = centre.journal.after()
        assert [(e["name"], e["result"], e["findings"]) for e in entries] == [
            ("LOGIN", None, []),
            ("SEND_ALARM", "1", []),
            ("SEND_ALARM", "1", []),
        ]
        assert centre.centre.open_alarms() == []

    async def test_a_chunked_body_of_an_old_client(self, centre: SupervisionCentre) -> None:
        body = envelope(LOGIN)
        cut = len(body) // 3
        chunks = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (body[:cut], body[cut:], b""))
        assert b"LOGIN_ACK" in await exchange(centre, post(chunks, "Transfer-Encoding: chunked"))

    async def test_http_1_0(self, centre: SupervisionCentre) -> None:
        assert b"LOGIN_ACK" in await exchange(centre, post(envelope(LOGIN), version="1.0"))

    async def test_continue_is_granted(self, centre: SupervisionCentre) -> None:
        body = envelope(LOGIN)
        reader, writer = await asyncio.open_connection("127.0.0.1", port(centre))
        head = post(body, f"Content-Length: {len(body)}", "Expect: 100-continue")[: -len(body)]
        async with asyncio.timeout(PATIENCE_S):
            writer.write(head)
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
            writer.write(body)
            assert b"LOGIN_ACK" in await answer_of(reader)
        writer.close()

    @pytest.mark.parametrize(
        "body",
        [
            ENVELOPE.format(f"<![CDATA[{LOGIN}]]>"),
            ENVELOPE.format(LOGIN.partition("?>")[2]),
            ENVELOPE.format(escaped(LOGIN)).replace("soap:", "SOAP-ENV:").replace("xmlns:soap", "xmlns:SOAP-ENV"),
        ],
        ids=["cdata", "child elements", "other prefix"],
    )
    async def test_other_forms_of_the_same(self, centre: SupervisionCentre, body: str) -> None:
        assert (await result(centre, body.encode()))[:2] == ("LOGIN_ACK", 102)

    async def test_the_wsdl_names_the_address_that_was_asked(self, centre: SupervisionCentre) -> None:
        request = b"GET /services/SCService?wsdl HTTP/1.1\r\nHost: sc.example:8080\r\n\r\n"
        got = await exchange(centre, request)
        assert b'<wsdlsoap:address location="http://sc.example:8080/services/SCService"/>' in got
        assert b'parameterOrder="xmlData"' in got

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
            (b"DELETE /services/SCService HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
            (post(b"<a>" + b"x" * (5 << 20)), b"413"),
        ],
    )
    async def test_other_requests(self, centre: SupervisionCentre, request_: bytes, status: bytes) -> None:
        assert (await exchange(centre, request_)).startswith(b"HTTP/1.1 " + status)

    async def test_what_is_no_http_ends_the_connection(self, centre: SupervisionCentre) -> None:
        with pytest.raises(asyncio.IncompleteReadError):
            await exchange(centre, b"\x00\x01\x02\r\n\r\n")
        assert (await result(centre, envelope(LOGIN)))[0] == "LOGIN_ACK"


class TestAnswers:
    async def test_a_malformed_envelope_is_a_fault(self, centre: SupervisionCentre) -> None:
        got = await exchange(centre, post(b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'))
        assert got.startswith(b"HTTP/1.1 500")
        assert b"<faultcode>soap:Client</faultcode>" in got
        assert [e["findings"][0]["rule"] for e in centre.journal.after()] == ["transport"]  # type: ignore[index]

    @pytest.mark.parametrize(
        ("payload", "expected"),
        [
            ("nonsense", ("UNKNOWN_ACK", 0, "0")),
            (
                "<Request><PK_Type><Name>SEND_DATA</Name><Code>777</Code></PK_Type><Info/></Request>",
                ("SEND_DATA_ACK", 778, "0"),
            ),
            (
                "<Request><PK_Type><Name>SEND_ALARM</Name><Code>601</Code></PK_Type><Info/></Request>",
                ("SEND_ALARM_ACK", 602, "0"),
            ),
            (
                "<Request><PK_Type><Name>SEND_ALARM</Name><Code>501</Code></PK_Type><Info/></Request>",
                ("SEND_ALARM_ACK", 502, "0"),
            ),
            (
                f"<Request><PK_Type><Name>LOGOUT</Name><Code>103</Code></PK_Type><Info><FsuId>{UNIT}</FsuId></Info></Request>",
                ("LOGOUT_ACK", 104, "1"),
            ),
        ],
    )
    async def test_payloads(self, centre: SupervisionCentre, payload: str, expected: tuple[str, int, str]) -> None:
        assert await result(centre, envelope(payload)) == expected

    async def test_findings_are_recorded_and_do_not_refuse(self, centre: SupervisionCentre) -> None:
        await result(centre, envelope(LOGIN))
        got = await exchange(centre, post(envelope(LOGIN)))
        assert b"&lt;RightLevel&gt;2" in got
        assert await result(centre, alarm("END")) == ("SEND_ALARM_ACK", 502, "1")
        rules = [f["rule"] for e in centre.journal.after() for f in e["findings"]]  # type: ignore[attr-defined]
        assert rules == ["login_too_soon", "end_before_begin"]

    async def test_a_strict_centre_refuses(self) -> None:
        strict = SupervisionCentre(clock=SystemClock(), policy=Policy(strict=True))
        await strict.start()
        await result(strict, envelope(LOGIN))
        got = await exchange(strict, post(envelope(LOGIN)))
        refused = await result(strict, alarm("END"))
        await strict.stop()
        assert b"&lt;RightLevel&gt;0" in got
        assert refused == ("SEND_ALARM_ACK", 502, "0")

    async def test_the_wrong_namespace_is_held_against_the_unit(self, centre: SupervisionCentre) -> None:
        body = envelope(LOGIN).replace(b"SCService.china", b"FSUService.china")
        assert (await result(centre, body))[0] == "LOGIN_ACK"
        assert centre.journal.after()[0]["findings"][0]["rule"] == "namespace"  # type: ignore[index]

    async def test_no_account_stands_in_the_journal(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        centre = SupervisionCentre(clock=SystemClock(), journal_path=path)
        await centre.start()
        await result(centre, envelope(LOGIN))
        await centre.stop()
        assert UNIT in path.read_text()
        assert "secret" not in path.read_text()

    async def test_a_second_run_remembers(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        first = SupervisionCentre(clock=SystemClock(), journal_path=path)
        await first.start()
        await result(first, envelope(LOGIN))
        await result(first, alarm())
        await first.stop()
        second = SupervisionCentre(clock=SystemClock(), journal_path=path)
        await second.start()
        assert len(second.centre.open_alarms()) == 1
        await result(second, alarm())
        await result(second, alarm("END"))
        await second.stop()
        rules = [[f["rule"] for f in e["findings"]] for e in second.journal.after(2)]  # type: ignore[attr-defined]
        assert rules == [["duplicate"], []]


class TestFaults:
    async def faulty(self, centre: SupervisionCentre, text: str) -> bytes:
        """The answer to an alarm under a fault; nothing when the connection is reset."""
        await result(centre, envelope(LOGIN))
        centre.faults.place(parse_order(text))
        try:
            return await exchange(centre, post(alarm()))
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return b""

    @pytest.mark.parametrize(
        ("order", "seen"),
        [
            ("drop", b""),
            ("no_answer:delay_s=0.05", b""),
            ("garbage", b"not an envelope"),
            ("http_500", b"HTTP/1.1 500"),
            ("wrong_code", b"&lt;Code&gt;602&lt;/Code&gt;"),
            ("result_0", b"&lt;Result&gt;0&lt;/Result&gt;"),
            ("late:delay_s=0.05", b"&lt;Result&gt;1&lt;/Result&gt;"),
        ],
    )
    async def test_each_kind_once(self, centre: SupervisionCentre, order: str, seen: bytes) -> None:
        got = await self.faulty(centre, order)
        assert seen in got
        assert (got == b"") == (seen == b"")
        entry = centre.journal.after()[-1]
        assert entry["fault"] == order.split(":")[0]
        assert await result(centre, alarm()) == ("SEND_ALARM_ACK", 502, "1")

    @pytest.mark.parametrize("order", ["drop", "garbage", "http_500", "wrong_code", "result_0"])
    async def test_sending_again_after_a_lost_answer_is_right(self, centre: SupervisionCentre, order: str) -> None:
        await self.faulty(centre, order)
        await result(centre, alarm())
        await result(centre, alarm("END"))
        assert [e["findings"] for e in centre.journal.after()] == [[], [], [], []]

    async def test_what_was_not_taken_has_not_begun(self, centre: SupervisionCentre) -> None:
        await self.faulty(centre, "drop:taken=false")
        assert centre.centre.open_alarms() == []
        await result(centre, alarm("END"))
        assert centre.journal.after()[-1]["findings"][0]["rule"] == "end_before_begin"  # type: ignore[index]

    async def test_a_refused_login(self, centre: SupervisionCentre) -> None:
        centre.faults.place(parse_order("result_0:command=LOGIN"))
        got = await exchange(centre, post(envelope(LOGIN)))
        assert b"&lt;RightLevel&gt;0" in got
        assert centre.centre.units == {}


class StubUnit:
    """A unit that answers as the samples of the interface do, on its own HTTP server."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.answers: dict[str, str] = {}
        self.http = HttpServer(self._handle)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.port}/services/FSUService"

    async def _handle(self, request: Request) -> Reply:
        namespace, text = unwrap(request.body, argument="xmlData")
        assert namespace == UNIT_NAMESPACE
        message = parse_payload(text)
        self.asked.put_nowait(message.name)
        assert message.code is not None
        known = self.answers.get(message.name)
        if known is None:
            known = messages.answer(message.name, message.code, [*messages.about_unit(UNIT), element("Result", "1")])
        return Reply(200, reply_envelope(UNIT_NAMESPACE, known), "text/xml")


@pytest.fixture
async def unit() -> AsyncIterator[StubUnit]:
    stub = StubUnit()
    await stub.http.start()
    yield stub
    await stub.http.stop()


class TestCalls:
    DATA = f"""<Response><PK_Type><Name>GET_DATA_ACK</Name><Code>402</Code></PK_Type><Info><FsuId>{UNIT}</FsuId>
        <FsuCode>{UNIT}</FsuCode><Result>1</Result><Values><DeviceList><Device Id="{DEVICE}" Code="{DEVICE}">
        <TSemaphore Type="3" Id="0416104001" MeasuredVal="228.4" SetupVal="0" Status="0"/>
        </Device></DeviceList></Values></Info></Response>"""

    async def test_get_data(self, centre: SupervisionCentre, unit: StubUnit) -> None:
        centre.unit_urls[UNIT] = unit.url
        unit.answers["GET_DATA"] = self.DATA
        answer = await centre.call(UNIT, "GET_DATA", messages.get_data(UNIT))
        assert (answer.result, list(answer.findings)) == ("1", [])
        device = answer.facts()["devices"][0]  # type: ignore[index]
        assert device["values"][0]["MeasuredVal"] == "228.4"
        entry = centre.journal.after()[0]
        assert (entry["direction"], entry["name"], entry["result"]) == ("out", "GET_DATA", "1")

    @pytest.mark.parametrize(
        ("answer", "rule"),
        [
            (DATA.replace("402", "502"), Rule.NAME_CODE),
            (DATA.replace("<Result>1</Result>", ""), Rule.RESULT),
            (DATA.replace(f"<FsuId>{UNIT}", "<FsuId>44010643800099"), Rule.UNIT_ID),
            ("", Rule.TRANSPORT),
            ("nonsense", Rule.TRANSPORT),
        ],
        ids=["code", "no result", "other unit", "empty", "nonsense"],
    )
    async def test_a_wrong_answer(self, centre: SupervisionCentre, unit: StubUnit, answer: str, rule: Rule) -> None:
        centre.unit_urls["*"] = unit.url
        unit.answers["GET_DATA"] = answer
        got = await centre.call(UNIT, "GET_DATA", messages.get_data(UNIT))
        assert [finding.rule for finding in got.findings] == [rule]

    async def test_a_unit_that_is_away(self, centre: SupervisionCentre, unit: StubUnit) -> None:
        centre.unit_urls[UNIT] = unit.url
        await unit.http.stop()
        got = await centre.call(UNIT, "TIME_CHECK", messages.time_check(SystemClock().now()))
        assert got.message is None
        assert [finding.rule for finding in got.findings] == [Rule.TRANSPORT]
        assert centre.journal.after()[0]["answered"] is False

    async def test_nobody_knows_the_unit(self, centre: SupervisionCentre) -> None:
        with pytest.raises(NotFound, match="has not logged in"):
            await centre.call(UNIT, "GET_FSUINFO", messages.get_fsuinfo(UNIT))

    async def test_after_a_login_the_unit_is_told_the_time(self, unit: StubUnit) -> None:
        centre = SupervisionCentre(clock=SystemClock(), policy=Policy(unit_urls={UNIT: unit.url}))
        await centre.start()
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(centre.run())
            await result(centre, envelope(LOGIN.replace("<Reg_Mode>2", "<Reg_Mode>1")))
            async with asyncio.timeout(PATIENCE_S):
                asked = [await unit.asked.get() for _ in range(2)]
            work.cancel()
        await centre.stop()
        assert asked == ["SET_LOGININFO", "TIME_CHECK"]

    async def test_units_are_polled_by_period(self, unit: StubUnit) -> None:
        policy = Policy(
            unit_urls={UNIT: unit.url}, info_every_s=0.5, data_every_s=0.5, time_every_s=0.5, time_check_at_login=False
        )
        centre = SupervisionCentre(clock=SystemClock(), policy=policy)
        await centre.start()
        await result(centre, envelope(LOGIN))
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(centre.run())
            async with asyncio.timeout(PATIENCE_S):
                asked = {await unit.asked.get() for _ in range(3)}
            work.cancel()
        await centre.stop()
        assert asked == {"GET_FSUINFO", "GET_DATA", "TIME_CHECK"}


async def test_conversations_that_stay_open_end_with_the_server_and_are_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer(request: Request) -> Reply:
        return Reply(200, b"here")

    server = HttpServer(answer)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: sc\r\n\r\n")
    async with asyncio.timeout(PATIENCE_S):
        assert b"here" in await reader.readuntil(b"here")
        await server.stop()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
