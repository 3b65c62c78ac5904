"""Apache Axis 1 in the part of a centre: a Java client generated from a unit's WSDL, in a process of its own."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import ROOT
from tests.peers.environments import peer_jars

LIMIT_S = 120.0
_QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
"""For programs that run a second. [JVM options]"""


async def ask_with_axis(wsdl_url: str, payloads: Sequence[str], folder: Path) -> list[str]:
    """Generate a client from the WSDL, compile it, send the payloads to the address in it, return the answers.

    Args:
        wsdl_url: Where the description is.
        payloads: Requests, each without a line break.
        folder: For what is generated.
    """
    jars = peer_jars("axis1")
    compiler = next(jar for jar in jars if jar.name.startswith("ecj"))
    axis = os.pathsep.join(str(jar) for jar in jars if jar != compiler)
    sources, classes = folder / "sources", folder / "classes"
    await _java("-cp", axis, "org.apache.axis.wsdl.WSDL2Java", "-o", str(sources), "-p", "peer", wsdl_url)
    client = ROOT / "tests" / "peers" / "AxisCentre.java"
    main = "org.eclipse.jdt.internal.compiler.batch.Main"
    # Level 8: as modules, the jars' javax.xml.namespace and Java's own would exclude each other.
    await _java("-cp", str(compiler), main, "-8", "-nowarn", "-cp", axis, "-d", str(classes), str(sources), str(client))
    classpath = os.pathsep.join([str(classes), axis])
    answered = await _java("-cp", classpath, "AxisCentre", told="\n".join(payloads))
    return answered.splitlines()


async def _java(*arguments: str, told: str = "") -> str:
    running = await asyncio.create_subprocess_exec(
        "java", *_QUICK, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(LIMIT_S):
            out, errors = await running.communicate(told.encode())
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    assert running.returncode == 0, errors.decode()
    return out.decode()
