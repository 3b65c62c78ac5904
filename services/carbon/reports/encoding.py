"""A finished report as canonical JSON, which is what is filed, and back."""

import hashlib
import json

from pydantic import TypeAdapter

from services.carbon.domain.reports.content import Report

_REPORT = TypeAdapter(Report)


def encode_report(report: Report) -> str:
    """Return a report as canonical JSON: sorted keys, no spaces, numbers as the shortest that read back.

    It is read back once before it is written, so that a whole number where a float is meant is the same content.
    """
    same = _REPORT.validate_json(_REPORT.dump_json(report))
    content = _REPORT.dump_python(same, mode="json")
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def decode_report(text: str) -> Report:
    """Return the report of a text.

    Raises:
        ValueError: It is none of ours.
    """
    return _REPORT.validate_json(text)


def digest_of(body: bytes) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(body).hexdigest()
