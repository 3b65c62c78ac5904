"""Sparkplug B payloads in bytes, by Google's protobuf runtime and a table of the fields that are read here.

The runtime skips fields that the table leaves out (data sets, templates, metadata). The table is all there is to the
format: numbers and types of fields are facts of the specification, and no generated code has to be kept in step.

Source:
    Sparkplug 3.0.0 (Eclipse Foundation, 2022), 6.4.1, google protocol buffer schema.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from services.ingest.domain.sparkplug import DataType, Metric, Payload, Value

MAX_METRICS = 20_000
"""Of one message; a birth of a large node has some thousands."""
QUALITY = "Quality"

_PACKAGE = "wattring.sparkplug"
_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "uint32": _Field.TYPE_UINT32, "uint64": _Field.TYPE_UINT64, "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE, "bool": _Field.TYPE_BOOL, "string": _Field.TYPE_STRING,
}  # fmt: skip

# Name of a field to its number and type; a type in brackets is repeated, "=" before it is one of the values.
_MESSAGES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "PropertyValue": {"type": (1, "uint32"), "int_value": (3, "uint32")},
    "PropertySet": {"keys": (1, "[string]"), "values": (2, "[PropertyValue]")},
    "Metric": {
        "name": (1, "string"), "alias": (2, "uint64"), "timestamp": (3, "uint64"), "datatype": (4, "uint32"),
        "is_historical": (5, "bool"), "is_null": (7, "bool"), "properties": (9, "PropertySet"),
        "int_value": (10, "=uint32"), "long_value": (11, "=uint64"), "float_value": (12, "=float"),
        "double_value": (13, "=double"), "boolean_value": (14, "=bool"), "string_value": (15, "=string"),
    },
    "Payload": {"timestamp": (1, "uint64"), "metrics": (2, "[Metric]"), "seq": (3, "uint64")},
}  # fmt: skip

_FIELD_OF = {DataType.FLOAT: "float_value", DataType.DOUBLE: "double_value", DataType.BOOLEAN: "boolean_value"}


class NotSparkplug(ValueError):
    """Bytes that are no payload of Sparkplug B."""


def decode(data: bytes) -> Payload:
    """Return the payload that bytes are.

    Raises:
        NotSparkplug: They are none.
    """
    message = _PAYLOAD()
    try:
        message.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError) as exc:
        raise NotSparkplug(f"expected a payload of Sparkplug B: {exc}") from None
    if len(message.metrics) > MAX_METRICS:
        raise NotSparkplug(f"expected at most {MAX_METRICS} metrics, found {len(message.metrics)}")
    return Payload(
        metrics=tuple(_metric(metric) for metric in message.metrics),
        time_ms=_given(message, "timestamp"),
        seq=_given(message, "seq"),
    )


def encode(payload: Payload) -> bytes:
    """Return the bytes of a payload whose metrics have names and types."""
    message = _PAYLOAD()
    if payload.time_ms is not None:
        message.timestamp = payload.time_ms
    if payload.seq is not None:
        message.seq = payload.seq
    for metric in payload.metrics:
        made = message.metrics.add()
        for name, value in {
            "name": metric.name, "alias": metric.alias, "timestamp": metric.time_ms, "datatype": metric.datatype,
        }.items():  # fmt: skip
            if value is not None:
                setattr(made, name, value)
        if metric.is_historical:
            made.is_historical = True
        if metric.value is None:
            made.is_null = True
        else:
            setattr(made, _field_for(metric.value, metric.datatype), metric.value)
    encoded: bytes = message.SerializeToString()
    return encoded


def _field_for(value: Value, datatype: int | None) -> str:
    if isinstance(value, str):
        return "string_value"
    if isinstance(value, bool):
        return "boolean_value"
    if isinstance(value, float):
        return "float_value" if datatype == DataType.FLOAT else "double_value"
    return "long_value" if datatype in (DataType.INT64, DataType.UINT64) else "int_value"


def _metric(metric: Any) -> Metric:
    kind = metric.WhichOneof("value")
    return Metric(
        name=_given(metric, "name"),
        alias=_given(metric, "alias"),
        time_ms=_given(metric, "timestamp"),
        datatype=_given(metric, "datatype"),
        value=None if kind is None or metric.is_null else getattr(metric, kind),
        is_historical=metric.is_historical,
        quality=_quality(metric),
    )


def _quality(metric: Any) -> int | None:
    properties = metric.properties
    for key, value in zip(properties.keys, properties.values, strict=False):
        if key == QUALITY:
            found: int | None = _given(value, "int_value")
            return found
    return None


def _given(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def _payload_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="wattring/sparkplug.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if any(kind.startswith("=") for _, kind in fields.values()):
            message.oneof_decl.add(name="value")
        for field_name, (number, written) in fields.items():
            kind = written.strip("[]=")
            field = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
            if written.startswith("["):
                field.label = _Field.LABEL_REPEATED
            if kind in _TYPES:
                field.type = _TYPES[kind]
            else:
                field.type = _Field.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{kind}"
            if written.startswith("="):
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Payload"))


_PAYLOAD = _payload_class()
