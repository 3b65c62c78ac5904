"""A short soak: one kill of each kind, devices of eight ways in, and nothing is missing, doubled or unexplained.

``make soak MINUTES=5`` is the long one. ``WATTRING_TEST_KILL_SEED`` repeats a plan.
"""

import asyncio
import os
import random
from pathlib import Path

import pytest

from libs.suite.kafka_node import KafkaNodeError
from libs.suite.postgres import PostgresError
from libs.suite.soak.journal import Answer
from libs.suite.soak.mosquitto import NoMosquitto
from libs.suite.soak.plan import KILLS
from libs.suite.soak.report import line, write
from libs.suite.soak.run import Soak, soak
from tests.conftest import missing

pytestmark = [
    pytest.mark.e2e, pytest.mark.integration, pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(900),
]  # fmt: skip

LENGTH_S = 10.0


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  # pytest shows it when the test fails


def test_nothing_is_lost_or_doubled_whatever_is_killed(tmp_path: Path) -> None:
    seed = int(os.environ.get("WATTRING_TEST_KILL_SEED") or random.randrange(100_000))
    say(f"again with WATTRING_TEST_KILL_SEED={seed}")
    try:
        outcome = asyncio.run(soak(Soak(seed, LENGTH_S, KILLS), tmp_path, say))
    except (KafkaNodeError, PostgresError, NoMosquitto) as exc:
        missing(exc.message)
    assert [line(found) for found in outcome.verdict.discrepancies] == []
    assert len(outcome.done) == len(KILLS)
    accepted = {one.device_id for one in outcome.evidence.entries if one.answer is Answer.ACCEPTED}
    held = {row.device_id for row in outcome.evidence.held}
    assert len(accepted) == 9
    assert accepted == held
    assert write(outcome, tmp_path / "results").exists()
