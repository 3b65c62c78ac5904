"""What comes uninvited to the units' door of a real process: an answer, a count, a finding, and no secret told."""

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import orjson
import pytest
from pydantic import SecretStr

from libs.common.bus import topics
from libs.common.bus.pglog import PgLogBus
from libs.common.bus.port import StartAt
from libs.common.client import NO_TLS
from libs.common.clock import SystemClock
from libs.common.contracts.alarm import Condition
from libs.common.settings import BusSettings, DatabaseSettings
from services.export.domain.knocking import LIMIT, QUIET_S
from services.export.door.watch import Door
from tests.integration.export.callback_world import world
from tests.integration.export.conftest import FSU, ScriptedCentre, free_port, small_mapping, until
from tests.integration.export.export_process import Process, process

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
SECRETS = ("centre-knows-this", "ftp-knows-this", "login-knows-this")
BOMB = "<!DOCTYPE a [" + "".join(
    f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "lol"}">' for n in range(10)
) + "]>"  # fmt: skip


def call(name: str, code: int, info: str) -> bytes:
    payload = f"<Request><PK_Type><Name>{name}</Name><Code>{code}</Code></PK_Type><Info>{info}</Info></Request>"
    return wrapped(html.escape(payload))


def wrapped(inner: str, doctype: str = "") -> bytes:
    return (
        f'{doctype}<s:Envelope xmlns:s="{ENVELOPE}"><s:Body><i:invoke xmlns:i="http://FSUService.chinatowercom.com">'
        f"<xmlData>{inner}</xmlData></i:invoke></s:Body></s:Envelope>"
    ).encode()


def ids(unit: str, code: str | None = None) -> str:
    return f"<FsuId>{unit}</FsuId><FsuCode>{code or unit}</FsuCode>"


ACCOUNT = f"<UserName>u</UserName><Password>{SECRETS[1]}</Password>"
REFUSED: list[tuple[bytes, str, str]] = [
    (call("GET_FSUINFO", 1701, ids("44010643899999")), "GET_FSUINFO_ACK 1702 0", "wrong_unit"),
    (call("GET_FSUINFO", 1701, ids(FSU, "44010643800018")), "GET_FSUINFO_ACK 1702 0", "wrong_unit"),
    (call("GET_DATA", 501, ids(FSU)), "GET_DATA_ACK 502 0", "unknown_command"),
    (call("EX_GET_CONFIG_FSU", 3001, ids(FSU) + ACCOUNT), "EX_GET_CONFIG_FSU_ACK 3002 0", "unknown_command"),
    (call("GET_HISDATA", 403, ids(FSU) + ACCOUNT), "GET_HISDATA_ACK 404 0", "malformed"),
    (call("SET_FTP", 1603, ids("44010643899999") + ACCOUNT), "SET_FTP_ACK 1604 0", "wrong_unit"),
    (wrapped("&e9;", BOMB), "Fault", "malformed_xml"),
    (wrapped(html.escape(f"{BOMB}<Request>&e9;{ACCOUNT}</Request>")), "Fault", "malformed_xml"),
    (call("SET_FTP", 1603, ids(FSU) + ACCOUNT)[:-60], "Fault", "malformed_xml"),
    (b"<a/>", "Fault", "not_soap"),
    (b"x" * (5 << 20), "Fault", "too_large"),
]


def said(response: httpx.Response) -> str:
    """Return name, code and Result of an answer, or that it is a fault of the caller."""
    body = ET.fromstring(response.text)
    fault = body.find(f".//{{{ENVELOPE}}}Fault")
    if fault is not None:
        assert (response.status_code, fault.findtext("faultcode")) == (500, "soap:Client")
        return "Fault"
    text = next(each.text for each in body.iter("invokeReturn"))
    assert text is not None
    answer = ET.fromstring(text.encode())
    return " ".join(answer.findtext(way, "-") for way in ("PK_Type/Name", "PK_Type/Code", "Info/Result"))


@pytest.fixture
async def bus(postgres_url: str) -> AsyncIterator[PgLogBus]:
    found = PgLogBus(DatabaseSettings(url=SecretStr(postgres_url)), BusSettings(), SystemClock())
    await found.start()
    await found.ensure_topics(topics.specs(BusSettings()))
    yield found
    await found.stop()


async def findings(bus: PgLogBus) -> list[Condition]:
    found: list[Condition] = []
    async with bus.tail([topics.CONDITIONS], StartAt(beginning=True)) as tail:
        while batch := await tail.fetch(max_messages=1000, timeout_s=0.5):
            found += [Condition.from_json(each.value) for each in batch if each.value is not None]
    return [each for each in found if each.subject.startswith("units-door/")]


async def metrics(folder: Path) -> str:
    transport = httpx.AsyncHTTPTransport(uds=f"{folder}/export.sock", verify=NO_TLS)
    async with httpx.AsyncClient(transport=transport, base_url="http://export", timeout=30) as client:
        return (await client.get("/metrics")).text


def counted(text: str) -> set[str]:
    """Return the outcomes of messages that the metrics have counted."""
    lines = re.findall(r"^wattring_export_(?:soap_messages|sc_requests)_total\{([^}]*)\} ([0-9.]+)", text, re.MULTILINE)
    return {match[1] for labels, number in lines if float(number) and (match := re.search('outcome="([^"]*)"', labels))}


async def connected(export: Process, centre: ScriptedCentre) -> None:
    body = {
        "id": "gd", "name": "SC", "url": centre.url, "account": {"username": "u", "password": SECRETS[0]},
    }  # fmt: skip
    assert await export.call("POST", "/api/v1/sc-connections", body) is not None
    assert await export.call("PUT", f"/api/v1/sc-connections/gd/units/{FSU}", {"name": "一号站", "sites": ["s-1"]})
    assert await export.call("PUT", f"/api/v1/mappings/gd/{FSU}", small_mapping()) is not None


async def test_what_is_turned_away_gets_an_answer_is_counted_and_told_and_no_secret_leaks(
    postgres_url: str, bus: PgLogBus, centre: ScriptedCentre, tmp_path: Path
) -> None:
    port = free_port()
    environ = {"WATTRING_EXPORT__UNIT_PORT": str(port), "WATTRING_LOG_LEVEL": "DEBUG"}
    url = f"http://127.0.0.1:{port}/services/FSUService"
    answers = []
    async with process(postgres_url, tmp_path, environ=environ) as export:
        await connected(export, centre)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:

            async def post(body: bytes) -> httpx.Response:
                return await http.post(url, content=body, headers={"content-type": "text/xml"})

            assert said(await post(call("GET_FSUINFO", 1701, ids(FSU)))) == "GET_FSUINFO_ACK 1702 1"
            # An order with a secret in it is refused too, by its own rules.
            assert said(await post(call("SET_FTP", 1603, ids(FSU) + ACCOUNT))) == "SET_FTP_ACK 1604 0"
            login = ids(FSU) + f"<PaSCword>{SECRETS[2]}</PaSCword>"
            for body, expected, _ in [*REFUSED, (call("LOGIN", 101, login), "LOGIN_ACK 102 0", "unknown_command")]:
                response = await post(body)
                answers.append(response.text)
                assert said(response) == expected, body[:300]

            async def told() -> bool:
                # Again as often as it takes, were the machine too slow for so many within the window.
                for _ in range(LIMIT):
                    await post(REFUSED[0][0])
                return bool(await findings(bus))

            await until(told)
        shown = await metrics(tmp_path)
        assert counted(shown) >= {outcome for _, _, outcome in REFUSED}
        listed = orjson.dumps(await export.call("GET", "/api/v1/sc-connections/gd")).decode()
        log = export.log
    [finding] = await findings(bus)
    assert (finding.kind, finding.phase.value, finding.subject) == ("auth_failed", "begin", "units-door/127.0.0.1")
    assert finding.detail_zh is not None
    assert "malformed request" in log, "the log is the one of what was refused"
    for place in (log, shown, listed, *answers, finding.detail):
        assert not any(secret in place for secret in SECRETS)


@pytest.mark.sql
async def test_it_is_told_once_until_it_has_been_quiet(postgres_url: str, tmp_path: Path) -> None:
    async with world(postgres_url, tmp_path) as found:
        woken: list[None] = []
        door = Door(db=found.db, clock=found.clock, committed=lambda: woken.append(None))
        for _ in range(3 * LIMIT):
            await door.refused("10.0.0.7", "wrong_unit")
        await door.refused("10.0.0.8", "wrong_unit")
        assert len(woken) == 1
        await found.clock.advance(QUIET_S - 1)
        for _ in range(LIMIT):
            await door.refused("10.0.0.7", "wrong_unit")
        await found.clock.advance(2)
        await door.sweep()
        assert len(woken) == 1, "it went on"
        await found.clock.advance(QUIET_S)
        await door.sweep()
        assert len(woken) == 2
        for _ in range(LIMIT):
            await door.refused("10.0.0.7", "wrong_unit")
        assert len(woken) == 3
