"""The consumers that integrators begin with, run as they are written against a real broker: docs/examples."""

import asyncio
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.bus.envelope import message
from libs.common.bus.kafka import KafkaBus
from libs.common.bus.port import Message, TopicSpec
from libs.common.clock import SystemClock
from libs.common.contracts.control import ControlEvent
from libs.common.contracts.examples import AT, example_of
from libs.common.contracts.telemetry import HEARTBEAT_TYPE, Heartbeat, Reading
from libs.common.settings import BusSettings
from tests.conftest import ROOT, missing
from tests.peers.environments import peer_jars

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

EXAMPLES_FOLDER = ROOT / "docs" / "examples"
READINGS = "wattring.telemetry.readings.v1"
COMMANDS = "wattring.control.events.v1"
LIMIT_S = 100.0
SHOWN = [
    "2026-05-31T16:00:02.250000Z site-baiyun-3 meter-1 active_power_total 0.962 good",
    "2026-05-31T16:00:02.250000Z site-baiyun-3 meter-1 energy_active_import 1234.5 good",
    "2026-05-31T16:00:02.250000Z site-baiyun-3 meter-1 temperature_device 131.0 suspect",
    "2026-05-31T16:00:02.250000Z site-baiyun-3 meter-1 voltage_a 230.1 good",
]
QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
"""For programs that run a second. [JVM options]"""
BROUGHT = re.compile(r"(jackson-(annotations|core|databind)|kafka-clients|lz4-java|slf4j-api|snappy-java|zstd-jni)-")
"""What the example's pom brings, among the jars of the node."""


@pytest.fixture
async def bus(kafka_bootstrap: str) -> AsyncIterator[KafkaBus]:
    bus = KafkaBus(BusSettings(bootstrap_servers=kafka_bootstrap), SystemClock())
    await bus.start()
    yield bus
    await bus.stop()


def reading(topic: str) -> Message:
    """Return a report under the headers that it has on the readings' topic."""
    return _as(READINGS, message(topic, "site-baiyun-3", example_of(Reading), source="ingest", time=AT))


def heartbeat(topic: str) -> Message:
    return message(topic, "0", example_of(Heartbeat), source="ingest", time=AT)


def event(topic: str, event_id: str) -> Message:
    made = message(topic, "load", example_of(ControlEvent), source="control", time=AT, event_id=event_id)
    return _as(COMMANDS, made)


def _as(kind: str, made: Message) -> Message:
    headers = tuple((name, kind.encode() if name == "ce_type" else value) for name, value in made.headers)
    return Message(topic=made.topic, key=made.key, value=made.value, headers=headers)


async def run(*command: str | Path) -> list[str]:
    """Run a program to its end; return the lines that it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return out.decode().splitlines()


@pytest.fixture
def java(tmp_path: Path) -> list[str]:
    """The command of the compiled example, with the jars that its pom names; the compiler is a test peer's."""
    compiler = next(jar for jar in peer_jars("axis1") if jar.name.startswith("ecj"))
    script = ROOT / "deploy" / "kafka" / "kafka.sh"
    if shutil.which("java") is None:
        missing("Java")
    found = subprocess.run([script, "jars"], capture_output=True, text=True, timeout=110, check=False)
    if found.returncode != 0:
        missing(f"the jars of Kafka: {found.stderr.strip()}")
    jars = [jar for jar in Path(found.stdout.strip()).glob("*.jar") if BROUGHT.match(jar.name)]
    pom = (EXAMPLES_FOLDER / "java" / "pom.xml").read_text(encoding="utf-8")
    named = re.findall(r"<artifactId>([\w-]+)</artifactId><version>([\w.]+)</version>", pom)
    assert {f"{name}-{version}.jar" for name, version in named} <= {jar.name for jar in jars}, "what is tried is told"
    classpath = ":".join(str(jar) for jar in jars)
    compiling: list[str | Path] = [
        "java", *QUICK, "-cp", compiler, "org.eclipse.jdt.internal.compiler.batch.Main", "-17", "-encoding", "UTF-8",
        "-nowarn", "-cp", classpath, "-d", tmp_path, EXAMPLES_FOLDER / "java" / "Consume.java",
    ]  # fmt: skip
    compiled = subprocess.run(compiling, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert compiled.returncode == 0, compiled.stderr
    return ["java", *QUICK, "-cp", f"{classpath}:{tmp_path}", "Consume"]


async def test_both_examples_print_what_is_on_a_topic_and_go_on_where_they_committed(
    bus: KafkaBus, kafka_bootstrap: str, java: list[str]
) -> None:
    python = [sys.executable, str(EXAMPLES_FOLDER / "python" / "consume.py")]
    topic = f"example.{secrets.token_hex(6)}"
    await bus.ensure_topics([TopicSpec(topic, 1, retention_s=3600.0)])
    assert HEARTBEAT_TYPE.encode() in dict(heartbeat(topic).headers).values()
    await bus.publish([reading(topic), heartbeat(topic), event(topic, "e-1")], timeout_s=30)
    first = await asyncio.gather(
        run(*python, kafka_bootstrap, topic, f"{topic}.python", "3"),
        run(*java, kafka_bootstrap, topic, f"{topic}.java", "3"),
    )
    for lines in first:
        assert [line for line in lines if line in SHOWN] == SHOWN
        assert any(line.endswith(" frequency - invalid") for line in lines)
        assert lines[-1].startswith(f"2026-05-31T16:00:02.250000Z {COMMANDS} e-1 {{")
    assert first[0] == first[1]
    await bus.publish([event(topic, "e-2")], timeout_s=30)
    second = await asyncio.gather(
        run(*python, kafka_bootstrap, topic, f"{topic}.python", "1"),
        run(*java, kafka_bootstrap, topic, f"{topic}.java", "1"),
    )
    for lines in second:
        assert [line.split(" ")[2] for line in lines] == ["e-2"]
