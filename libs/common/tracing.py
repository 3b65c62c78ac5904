"""Tracing: spans by OpenTelemetry, sent only when a collector is named.

One span a batch of readings, with links, never one a point; commands and alarms carry ``traceparent`` on the bus, so
that a trace follows a command from the API to the breaker and back.

Where spans go is said in OpenTelemetry's own variables: ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``…_TRACES_ENDPOINT``)
switches the export on, ``OTEL_SDK_DISABLED=true`` and ``OTEL_TRACES_EXPORTER=none`` off again; sampling, headers and
resource are theirs too. Without a collector the SDK is not even loaded (it takes 7 MB and 150 ms a process): a span
is then only its ids, which logs and messages carry all the same.
"""

import logging
import os
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

logger = logging.getLogger(__name__)

FLUSH_S = 2.0
"""What is left at the end may take this long to be sent; a collector that is away must not hold the stop. [s]"""

_propagator = TraceContextTextMapPropagator()
_provider: "TracerProvider | None" = None
_tracer: Tracer | None = None


def setup_tracing(process: str, *, exporter: "SpanExporter | None" = None) -> None:
    """Send spans from now on, if a collector is named; called once, in ``main``.

    Args:
        process: Name of the service in traces, unless ``OTEL_SERVICE_NAME`` gives another.
        exporter: Where to send in place of the collector; for tests.
    """
    global _provider, _tracer
    if _provider is not None or (exporter is None and not _wanted()):
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    own = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": f"wattring-{process}"}
    # At the interpreter's end the SDK would wait half a minute for a collector that is away: see shutdown_tracing.
    _provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = _provider.get_tracer("wattring")


def shutdown_tracing(timeout_s: float = FLUSH_S) -> None:
    """Send what is left and stop; give up after ``timeout_s``. [s]"""
    global _provider, _tracer
    provider, _provider, _tracer = _provider, None, None
    if provider is not None:
        closing = threading.Thread(target=provider.shutdown, name="tracing shutdown", daemon=True)
        closing.start()
        closing.join(timeout_s)


def is_sent() -> bool:
    """Return whether spans are sent anywhere."""
    return _tracer is not None


@contextmanager
def span(
    name: str, *, traceparent: str | None = None, links: Sequence[str] = (), **attributes: str | int | float
) -> Iterator[None]:
    """Run the block within a span.

    Args:
        name: What is done, low-cardinality.
        traceparent: The parent, as it came with a message or request; without one the current span is the parent.
            One that is not well-formed begins a new trace.
        links: ``traceparent`` of what the block handles together.
        attributes: Facts of the span; no secrets, no payloads.
    """
    parent = _propagator.extract({"traceparent": traceparent}) if traceparent else None
    if _tracer is None:
        above = attach(trace.set_span_in_context(_unrecorded(parent)))
        try:
            yield
        finally:
            detach(above)
        return
    linked = [_context_of(_propagator.extract({"traceparent": link})) for link in links]
    with _tracer.start_as_current_span(
        name, context=parent, attributes=attributes, links=[Link(one) for one in linked if one.is_valid]
    ):
        yield


def current_traceparent() -> str | None:
    """Return the W3C traceparent of the current span, or None outside any."""
    context = _context_of(None)
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def current_trace_id() -> str | None:
    """Return the trace id of the current span in hexadecimal, or None outside any."""
    context = _context_of(None)
    return f"{context.trace_id:032x}" if context.is_valid else None


def _context_of(context: Context | None) -> SpanContext:
    return trace.get_current_span(context).get_span_context()


def _unrecorded(parent: Context | None) -> NonRecordingSpan:
    """Return a span that is nothing but its ids."""
    above = _context_of(parent)
    return NonRecordingSpan(
        SpanContext(
            trace_id=above.trace_id if above.is_valid else random.getrandbits(128) or 1,
            span_id=random.getrandbits(64) or 1,
            is_remote=False,
            trace_flags=above.trace_flags,
            trace_state=above.trace_state,
        )
    )


def _wanted() -> bool:
    environ = os.environ
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if not (environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
        return False
    kinds = environ.get("OTEL_TRACES_EXPORTER", "otlp").split(",")
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if kinds != ["none"] and ("otlp" not in kinds or protocol not in (None, "", "http/protobuf")):
        logger.warning(
            "traces are sent by OTLP over HTTP only",
            extra={"exporters": kinds, "protocol": protocol or "http/protobuf"},
        )
    return "otlp" in kinds and protocol in (None, "", "http/protobuf")
