"""Tracing: OpenTelemetry spans, sent only when ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set.

One span a batch of readings, with links, never one a point; commands and alarms carry ``traceparent``
on the bus, so that a trace follows a command from the API to the breaker and back.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("wattring")


def setup_tracing(process: str) -> None:
    """Install the SDK; without an endpoint spans carry ids and go nowhere."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(resource=Resource.create({"service.name": f"wattring-{process}"}))
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


@contextmanager
def span(name: str, *, traceparent: str | None = None, **attributes: str | int | float) -> Iterator[None]:
    """Run the block within a span, as a child of ``traceparent`` where one is given."""
    context = _propagator.extract({"traceparent": traceparent}) if traceparent else None
    with _tracer.start_as_current_span(name, context=context, attributes=attributes):
        yield


def current_traceparent() -> str | None:
    """Return the W3C traceparent of the current span, or None outside any."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


def current_trace_id() -> str | None:
    """Return the trace id of the current span in hexadecimal, or None outside any."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else None
