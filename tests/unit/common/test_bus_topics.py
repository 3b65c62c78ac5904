"""Which topics there are, and how each is created."""

import re

import pytest

from libs.common.bus import topics
from libs.common.settings import BusSettings

EMBEDDED = BusSettings()
KAFKA = BusSettings(bootstrap_servers="127.0.0.1:9092")


def test_every_constant_is_created_once() -> None:
    constants = {value for value in vars(topics).values() if isinstance(value, str) and value.startswith("wattring.")}
    names = [spec.name for spec in topics.specs(EMBEDDED)]
    assert sorted(names) == sorted(constants)
    assert len(names) == len(set(names)) == 21
    assert all(re.fullmatch(r"wattring\.[a-z]+\.[a-z]+\.v1", name) for name in names)


@pytest.mark.parametrize(("settings", "partitions"), [(EMBEDDED, 8), (KAFKA, 48)], ids=["embedded", "kafka"])
def test_all_topics_but_the_registry_have_the_same_number_of_partitions(settings: BusSettings, partitions: int) -> None:
    found = {spec.name: spec.partitions for spec in topics.specs(settings)}
    assert found.pop(topics.REGISTRY) == 1
    assert set(found.values()) == {partitions}


def test_only_the_topics_that_the_contracts_call_compacted_are_and_they_keep_their_messages() -> None:
    compacted = [spec for spec in topics.specs(EMBEDDED) if spec.compacted]
    assert {spec.name for spec in compacted} == {topics.DEVICE_STATUS, topics.REGISTRY, topics.MAINTENANCE}
    assert all(spec.retention_s is None for spec in compacted)


def test_readings_are_bounded_by_age_and_bytes_on_the_embedded_bus_only() -> None:
    embedded = {spec.name: spec for spec in topics.specs(EMBEDDED)}[topics.READINGS]
    assert (embedded.retention_s, embedded.retention_bytes) == (7200.0, 4 << 30)
    on_kafka = {spec.name: spec for spec in topics.specs(KAFKA)}[topics.READINGS]
    assert (on_kafka.retention_s, on_kafka.retention_bytes) == (7 * 86400.0, None)
