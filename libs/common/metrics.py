"""Metrics: Prometheus families with the prefix ``wattring_``, base units, few labels.

Families are made where they are used, by these helpers, which refuse what Prometheus or we would regret: a counter
that does not end in ``_total``, a duration that is not in seconds, a label that holds a device or a point (a million
devices would be a million series; what concerns one device belongs into an API).
"""

import platform
import re
from collections.abc import Sequence

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

PREFIX = "wattring_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FORBIDDEN_LABELS = frozenset({"device", "device_id", "point", "circuit", "circuit_id", "path", "user"})
"""What has as many values as the field has things, or as many as a stranger likes to invent."""
_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_WRONG_UNIT = re.compile(r"_(?:ms|milliseconds|minutes|hours|kb|mb|kilobytes|megabytes)(?:_total)?$")

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series a counter, which nobody asks for


def counter(name: str, description: str, labels: Sequence[str] = ()) -> Counter:
    """Return a counter; its name ends in ``_total``."""
    if not name.endswith("_total"):
        raise ValueError(f"a counter's name ends in _total: {name}")
    return Counter(_checked(name, labels), description, labels)


def gauge(name: str, description: str, labels: Sequence[str] = ()) -> Gauge:
    """Return a gauge."""
    if name.endswith("_total"):
        raise ValueError(f"only a counter's name ends in _total: {name}")
    return Gauge(_checked(name, labels), description, labels)


def histogram(
    name: str,
    description: str,
    labels: Sequence[str] = (),
    *,
    buckets: Sequence[float] = Histogram.DEFAULT_BUCKETS,
) -> Histogram:
    """Return a histogram; its name ends in the base unit."""
    return Histogram(_checked(name, labels), description, labels, buckets=buckets)


def render() -> bytes:
    """Return all families in the Prometheus text format."""
    return generate_latest(REGISTRY)


def note_build(process: str, version: str) -> None:
    """Say in ``wattring_build_info`` what runs here."""
    _build.clear()
    _build.labels(process, version, platform.python_version()).set(1)


def _checked(name: str, labels: Sequence[str]) -> str:
    if not _NAME.fullmatch(name) or name.startswith(PREFIX):
        raise ValueError(f"a metric's name is lower-case words joined by _, without the prefix {PREFIX}: {name}")
    if _WRONG_UNIT.search(name):
        raise ValueError(f"metrics are in base units (seconds, bytes): {name}")
    if found := FORBIDDEN_LABELS.intersection(labels):
        raise ValueError(f"{name}: a label never holds {', '.join(sorted(found))}")
    return PREFIX + name


_build = gauge("build_info", "Always 1; its labels say what runs here", ("process", "version", "python"))
