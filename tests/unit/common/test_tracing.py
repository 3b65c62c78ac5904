"""Traces: ids travel always, spans are sent only when a collector is named, and nothing waits for it."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span

from libs.common.tracing import current_trace_id, current_traceparent, setup_tracing, shutdown_tracing, span

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SHAPE = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@pytest.fixture(params=["without a collector", "with a collector"])
def sent(request: pytest.FixtureRequest) -> Iterator[InMemorySpanExporter | None]:
    """The same promises hold whether spans are recorded or not."""
    if request.param == "without a collector":
        yield None
        return
    exporter = InMemorySpanExporter()
    setup_tracing("test", exporter=exporter)
    yield exporter
    shutdown_tracing()


@pytest.mark.usefixtures("sent")
def test_outside_any_span_there_are_no_ids() -> None:
    assert current_traceparent() is None
    assert current_trace_id() is None


@pytest.mark.usefixtures("sent")
def test_a_trace_goes_on_across_messages() -> None:
    with span("publish"):
        outgoing = current_traceparent()
        trace_id = current_trace_id()
    assert outgoing is not None
    assert SHAPE.fullmatch(outgoing)
    with span("consume", traceparent=outgoing):
        assert current_trace_id() == trace_id == outgoing[3:35]
        inner = current_traceparent()
        assert inner is not None
        assert inner[36:52] != outgoing[36:52]
        with span("within"):
            assert current_trace_id() == trace_id
            assert current_traceparent() != inner
        assert current_traceparent() == inner
    assert current_traceparent() is None


@pytest.mark.usefixtures("sent")
def test_what_others_decided_on_sampling_is_kept() -> None:
    with span("consume", traceparent=PARENT):
        assert (current_traceparent() or "").startswith("00-0af7651916cd43dd8448eb211c80319c-")
        assert (current_traceparent() or "").endswith("-01")


@pytest.mark.usefixtures("sent")
@pytest.mark.parametrize(
    "text", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", PARENT[:-3], "ff" + PARENT[2:]]
)
def test_a_malformed_parent_begins_a_new_trace(text: str) -> None:
    with span("consume", traceparent=text):
        assert SHAPE.fullmatch(current_traceparent() or "")
        assert current_trace_id() != "0" * 32


@given(st.text())
def test_no_parent_from_outside_breaks_the_work(text: str) -> None:
    with span("consume", traceparent=text):
        assert SHAPE.fullmatch(current_traceparent() or "")


@pytest.mark.usefixtures("sent")
def test_an_error_passes_through() -> None:
    with pytest.raises(KeyError), span("work"):
        raise KeyError("x")
    assert current_traceparent() is None


def test_without_a_collector_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    setup_tracing("test")
    with span("work"):
        assert not get_current_span().is_recording()


def test_recorded_spans_have_parent_links_and_attributes() -> None:
    exporter = InMemorySpanExporter()
    setup_tracing("test", exporter=exporter)
    try:
        with span("consume", traceparent=PARENT, links=(PARENT, "nonsense"), records=3):
            pass
    finally:
        shutdown_tracing()
    (found,) = exporter.get_finished_spans()
    assert found.name == "consume"
    assert found.parent is not None
    assert found.parent.span_id == 0xB7AD6B7169203331
    assert dict(found.attributes or {}) == {"records": 3}
    assert [f"{link.context.trace_id:032x}" for link in found.links] == ["0af7651916cd43dd8448eb211c80319c"]
    assert found.resource.attributes["service.name"] == "wattring-test"


class Stuck(SpanExporter):
    """A collector that never answers."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.released.wait()
        return SpanExportResult.FAILURE


def test_a_collector_that_never_answers_does_not_hold_the_stop() -> None:
    stuck = Stuck()
    setup_tracing("test", exporter=stuck)
    with span("work"):
        pass
    done: Future[None] = Future()

    def stop() -> None:
        shutdown_tracing(0.05)
        done.set_result(None)

    threading.Thread(target=stop, daemon=True).start()
    try:
        done.result(timeout=20)  # the SDK alone would take 30
    finally:
        stuck.released.set()


# -- whole processes: what is loaded and what is sent ----------------------------------------------

PROGRAM = """
import json, sys
from libs.common.tracing import setup_tracing, shutdown_tracing, span, current_traceparent
setup_tracing("probe")
with span("work"):
    told = current_traceparent()
shutdown_tracing(20)
print(json.dumps({"sdk": "opentelemetry.sdk" in sys.modules, "traceparent": told}))
"""


def run(**environ: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


class Collector(HTTPServer):
    """Takes what is sent to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.taken: list[tuple[str, bytes]] = []


class Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.taken.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_named_collector_gets_the_spans(collector: Collector) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    for variable, value in (
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{endpoint}/v1/traces"),
    ):
        collector.taken.clear()
        told = run(**{variable: value})
        assert told["sdk"] is True
        assert int(str(told["traceparent"])[-2:], 16) & 1  # sampled
        ((path, body),) = collector.taken
        assert path == "/v1/traces"
        assert b"wattring-probe" in body
        assert b"work" in body


def test_otel_names_the_service_when_it_is_told_to(collector: Collector) -> None:
    run(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.server_port}", OTEL_SERVICE_NAME="park-7")
    assert b"park-7" in collector.taken[0][1]
    assert b"wattring-probe" not in collector.taken[0][1]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_without_a_collector_the_sdk_is_not_even_loaded(environ: dict[str, str]) -> None:
    told = run(**environ)
    assert told["sdk"] is False
    assert SHAPE.fullmatch(str(told["traceparent"]))
