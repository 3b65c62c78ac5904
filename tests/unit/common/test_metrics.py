"""Metrics follow the Prometheus conventions, and no label grows with the field."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from libs.common import metrics

SEEN = metrics.counter("test_metrics_seen_total", "Things seen", ("kind",))
LOAD = metrics.gauge("test_metrics_load_ratio", "How busy")
TOOK = metrics.histogram("test_metrics_took_seconds", "How long", buckets=(0.1, 1.0))


def families() -> dict[str, object]:
    return {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}


def test_families_are_prefixed_described_and_parse() -> None:
    SEEN.labels("a").inc(2)
    LOAD.set(0.5)
    TOOK.observe(0.05)
    text = metrics.render().decode()
    assert "# HELP wattring_test_metrics_seen_total Things seen" in text
    assert 'wattring_test_metrics_seen_total{kind="a"} 2.0' in text
    assert "wattring_test_metrics_load_ratio 0.5" in text
    assert 'wattring_test_metrics_took_seconds_bucket{le="0.1"} 1.0' in text
    assert {"wattring_test_metrics_seen", "wattring_test_metrics_load_ratio"} <= set(families())


def test_there_is_no_second_series_for_creation_times() -> None:
    SEEN.labels("b").inc()
    assert "_created" not in metrics.render().decode()


@pytest.mark.parametrize("label", sorted(metrics.FORBIDDEN_LABELS))
def test_a_label_never_holds_a_thing_of_the_field(label: str) -> None:
    with pytest.raises(ValueError, match=f"a label never holds {label}"):
        metrics.gauge("test_metrics_refused", "x", ("kind", label))


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (metrics.counter, "test_metrics_seen", "ends in _total"),
        (metrics.gauge, "test_metrics_load_total", "only a counter"),
        (metrics.histogram, "test_metrics_took_ms", "base units"),
        (metrics.counter, "test_metrics_kilobytes_total", "base units"),
        (metrics.gauge, "wattring_test_metrics", "without the prefix"),
        (metrics.gauge, "testMetrics", "lower-case"),
    ],
)
def test_names_follow_the_conventions(make: object, name: str, reason: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=reason):
        make(name, "x")


def test_a_name_is_used_once() -> None:
    with pytest.raises(ValueError, match="Duplicated"):
        metrics.gauge("test_metrics_load_ratio", "again")


def test_what_runs_here_is_one_series() -> None:
    metrics.note_build("suite", "0.1.0")
    metrics.note_build("suite", "0.2.0")
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("wattring_build_info{")]
    assert len(lines) == 1
    assert 'process="suite"' in lines[0]
    assert 'version="0.2.0"' in lines[0]
    assert lines[0].endswith(" 1.0")
