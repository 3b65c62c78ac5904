"""How published statements are written down: canonical JSON, the same bytes for the same content.

What was published is stored as text and read back from it, so the digest of a statement can be checked by anybody
who has the text, without this program.
"""

import hashlib
import json
from typing import TypeVar

from pydantic import TypeAdapter

from services.carbon.domain.inventory.publication import AvoidedPublication, Publication

Written = TypeVar("Written")

_PUBLICATION = TypeAdapter(Publication)
_AVOIDED = TypeAdapter(AvoidedPublication)


def encode_publication(publication: Publication) -> str:
    """Return a publication as canonical JSON."""
    return _canonical(_PUBLICATION, publication)


def decode_publication(text: str) -> Publication:
    """Return the publication of a text.

    Raises:
        ValueError: It is none of ours.
    """
    return _PUBLICATION.validate_json(text)


def encode_avoided(publication: AvoidedPublication) -> str:
    """Return a statement of avoided emissions as canonical JSON."""
    return _canonical(_AVOIDED, publication)


def decode_avoided(text: str) -> AvoidedPublication:
    """Return the statement of avoided emissions of a text.

    Raises:
        ValueError: It is none of ours.
    """
    return _AVOIDED.validate_json(text)


def digest(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(adapter: TypeAdapter[Written], value: Written) -> str:
    """Return JSON with sorted keys, no spaces, and numbers as Python prints them: the shortest that read back.

    The value is read back once before it is written: a whole number where a float is meant is the same content.
    """
    same = adapter.validate_json(adapter.dump_json(value))
    content = adapter.dump_python(same, mode="json")
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
