"""Whole processes: ready, asked, stopped by a signal, continued by the next run; and the control API between."""

import asyncio
import signal
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from pymodbus.client import AsyncModbusTcpClient

pytestmark = pytest.mark.integration

START_S = 60.0
"""A busy machine; ready comes within two seconds on a quiet one."""
STOP_S = 20.0


@asynccontextmanager
async def running(ready: Path, *arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    """Run a command until the block ends; the description is what it prints when it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "libs.fieldsim.cli", *arguments, "--ready-file", str(ready)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    text = b""
    try:
        async with asyncio.timeout(START_S):
            while not text.endswith(b"\n}\n"):
                line = await process.stdout.readline()
                assert line, (await process.communicate())[1].decode()
                text += line
        yield process, orjson.loads(text)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_S):
            _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert b"Traceback" not in errors


async def words(endpoint: str, unit: int, address: int, count: int, *, holding: bool = False) -> list[int]:
    host, port = endpoint.split(":")
    client = AsyncModbusTcpClient(host, port=int(port), retries=0, reconnect_delay=0)
    assert await client.connect()
    try:
        read = client.read_holding_registers if holding else client.read_input_registers
        return list((await read(address, count=count, device_id=unit)).registers)
    finally:
        client.close()


async def write(endpoint: str, unit: int, address: int, word: int) -> None:
    host, port = endpoint.split(":")
    client = AsyncModbusTcpClient(host, port=int(port), retries=0, reconnect_delay=0)
    assert await client.connect()
    try:
        assert not (await client.write_register(address, word, device_id=unit)).isError()
    finally:
        client.close()


async def until(probe: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """Ask again until the answer is the wanted one."""
    async with asyncio.timeout(START_S):
        while not wanted(found := await probe()):  # noqa: ASYNC110 - another process sets no event of ours
            await asyncio.sleep(0.05)
    return found


def a_float(pair: list[int]) -> float:
    value: float = struct.unpack(">f", struct.pack(">HH", *pair))[0]
    return value


async def test_the_demonstration_runs_and_the_next_run_continues(tmp_path: Path) -> None:
    data, ready = tmp_path / "field", tmp_path / "ready.json"
    arguments = ("demo", "--data-dir", str(data), "--history-hours", "2")
    async with running(ready, *arguments) as (_, first):
        assert orjson.loads(ready.read_bytes()) == first
        assert orjson.loads((data / "field.json").read_bytes()) == first
        assert len((data / "history.ndjson").read_bytes().splitlines()) == first["history_reports_written"] == 240
        assert set(first["lines"]) == {"line-tianhe", "line-huangpu", "line-huangpu-breaker", "line-panyu"}
        assert first["registry_file"] == str(data / "registry.yaml")
        assert first["lines"]["line-panyu"] in (data / "registry.yaml").read_text(encoding="utf-8")
        assert [event["kind"] for event in first["planned"]] == ["sag"] * 12
        breaker, meter = first["lines"]["line-huangpu-breaker"], first["lines"]["line-huangpu"]
        assert a_float(await words(meter, 2, 0x0034, 2)) > 300  # W, as the meter has it
        assert await words(breaker, 1, 0, 1) == [0x00F0]
        await write(breaker, 1, 0x000D, 0x0000)
        await until(lambda: words(breaker, 1, 0, 1), lambda found: found == [0x000F])
        assert a_float(await until(lambda: words(meter, 2, 0x0034, 2), lambda found: a_float(found) == 0.0)) == 0.0
    assert not (data / "field.json").exists()

    async with running(ready, *arguments) as (_, second):
        assert second["lines"] == first["lines"]
        assert second["history_reports_written"] == 0
        assert await words(breaker, 1, 0, 1) == [0x000F]
        assert a_float(await words(meter, 2, 0x0034, 2)) == 0.0


async def test_the_control_api_orders_faults_and_tells_what_happened(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    arguments = ("breaker", "--port", "0", "--units", "1,2", "--meter-profile", "eastron_sdm630")
    async with running(ready, *arguments, "--motor-delay-s", "0") as (_, description):
        endpoint = description["lines"]["line-1"]
        async with httpx.AsyncClient(base_url=description["control_url"], trust_env=False) as api:

            async def get(path: str) -> Any:
                reply = await api.get(path)
                assert reply.status_code == 200, reply.text
                return reply.json()

            assert await get("/field") == description
            assert [one["device_id"] for one in await get("/devices")] == [
                "breaker-1",
                "meter-1",
                "breaker-2",
                "meter-2",
            ]
            placed = await api.post("/devices/meter-1/faults", json={"kind": "sag", "phase": "b", "to_v": 120})
            assert (placed.status_code, placed.json()["active"]) == (201, True)
            assert a_float(await words(endpoint, 101, 2, 2)) == 120.0
            assert len(await get("/faults")) == 1
            assert (await api.delete(f"/faults/{placed.json()['fault_id']}")).status_code == 204
            await until(lambda: words(endpoint, 101, 2, 2), lambda found: a_float(found) > 200)

            await write(endpoint, 1, 0x000D, 0x0000)
            shown = await get("/devices/breaker-1")
            assert (shown["closed"], shown["points"]["breaker_state"]) == (False, 0.0)
            assert (await get("/loads"))[0]["power_kw"] == 0.0
            events = [(e["what"], e.get("closed")) for e in await get("/events?device_id=breaker-1")]
            assert events == [("command", None), ("moved", False)]

            tripped = await api.post("/devices/breaker-2/breaker", json={"action": "trip", "reason": 3})
            assert tripped.json()["tripped"] == 3
            for action, facts in (("release", {"tripped": 0}), ("lock", {"locked": True}), ("close", {"closed": True})):
                done = await api.post("/devices/breaker-2/breaker", json={"action": action})
                assert done.json().items() >= facts.items()
            assert (await get("/traffic"))["line-1"]["requests"] > 3

            for method, path, body, status in (
                ("POST", "/devices/nobody/faults", {"kind": "silent"}, 404),
                ("POST", "/devices/meter-1/faults", {"kind": "melt"}, 422),
                ("POST", "/devices/meter-1/breaker", {"action": "open"}, 409),
                ("GET", "/devices/nobody", None, 404),
                ("DELETE", "/faults/99", None, 404),
            ):
                assert (await api.request(method, path, json=body)).status_code == status, path
            await api.post("/devices/*/faults", json={"kind": "silent"})
            assert (await api.delete("/devices/*/faults")).json() == {"withdrawn": 1}


async def test_the_centre_answers_and_its_journal_can_be_read(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    arguments = ("sc", "--port", "0", "--journal", str(tmp_path / "sc.jsonl"), "--fault", "http_500")
    async with running(ready, *arguments) as (_, description), httpx.AsyncClient(trust_env=False) as http:
        control = description["control_url"]
        body = (
            '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
            '<i:invoke xmlns:i="http://SCService.chinatowercom.com"><xmlData><![CDATA['
            "<Request><PK_Type><Name>LOGOUT</Name><Code>103</Code></PK_Type><Info/></Request>"
            "]]></xmlData></i:invoke></s:Body></s:Envelope>"
        )
        first = await http.post(description["sc_url"], content=body)
        second = await http.post(description["sc_url"], content=body)
        assert (first.status_code, second.status_code) == (500, 200)
        assert "LOGOUT_ACK" in second.text
        journal = (await http.get(f"{control}/journal?name=LOGOUT")).json()
        assert [(entry["fault"], entry["answered"]) for entry in journal] == [("http_500", False), (None, True)]
        assert (await http.get(f"{control}/sc/journal?after=1")).json() == journal[1:]
        assert (await http.post(f"{control}/sc/faults", json={"kind": "drop", "count": 2})).status_code == 201
        assert len((await http.get(f"{control}/sc/faults")).json()) == 1
        assert (await http.delete(f"{control}/sc/faults")).json() == {"withdrawn": 1}
        unit = "44010643800017"
        call = {"command": "GET_FSUINFO"}
        assert (await http.post(f"{control}/sc/units/{unit}/calls", json=call)).status_code == 404
        await http.put(f"{control}/sc/units/{unit}/url", json={"url": "http://127.0.0.1:9/services/FSUService"})
        answer = (await http.post(f"{control}/sc/units/{unit}/calls", json=call)).json()
        assert answer["findings"][0]["rule"] == "transport"
        assert (await http.get(f"{control}/sc/units")).json() == (await http.get(f"{control}/sc/alarms")).json() == []
    assert len((tmp_path / "sc.jsonl").read_bytes().splitlines()) == 3


async def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    async with running(tmp_path / "ready.json", "meter", "--port", "0") as (_, description):
        port = description["lines"]["line-1"].split(":")[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "libs.fieldsim.cli", "meter", "--port", port, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(START_S):
            _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"cannot listen" in errors
    assert "无法监听端口" in errors.decode()
    assert b"Traceback" not in errors


async def test_ctrl_c_stops_it_as_cleanly(tmp_path: Path) -> None:
    async with running(tmp_path / "ready.json", "meter", "--port", "0") as (process, _):
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(STOP_S):
            await process.wait()


async def test_poll_unit_names_what_is_wrong() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "libs.fieldsim.cli", "poll-unit", "http://127.0.0.1:9/services/FSUService", "44010643800017"),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(START_S):
        output, _ = await process.communicate()
    assert process.returncode == 1
    assert orjson.loads(output)["findings"][0]["rule"] == "transport"
