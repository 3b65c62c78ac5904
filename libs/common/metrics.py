"""Metrics: Prometheus families with the prefix ``wattring_``, base units, few labels.

A label never holds a device or point id. Families are made where they are used, by these helpers, so
that the prefix and the description are never forgotten.
"""

from collections.abc import Sequence

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest

PREFIX = "wattring_"


def counter(name: str, description: str, labels: Sequence[str] = ()) -> Counter:
    """Return a counter; its name ends in ``_total``."""
    return Counter(PREFIX + name, description, labels)


def gauge(name: str, description: str, labels: Sequence[str] = ()) -> Gauge:
    """Return a gauge."""
    return Gauge(PREFIX + name, description, labels)


def histogram(
    name: str,
    description: str,
    labels: Sequence[str] = (),
    *,
    buckets: Sequence[float] = Histogram.DEFAULT_BUCKETS,
) -> Histogram:
    """Return a histogram; its name ends in the base unit."""
    return Histogram(PREFIX + name, description, labels, buckets=buckets)


def render() -> bytes:
    """Return all families in the Prometheus text format."""
    return generate_latest(REGISTRY)
