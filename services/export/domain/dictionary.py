"""The compact dictionary of dialect T, as shipped; see ``data/README.md`` for its source."""

import csv
from functools import cache
from importlib.resources import files

from services.export.dialects.messages import PointType
from services.export.domain.mapping import DictionaryRow, SourceKind


@cache
def tower_dictionary() -> tuple[DictionaryRow, ...]:
    """Return all rows."""
    text = files("services.export").joinpath("data/tower_dictionary.csv").read_text(encoding="utf-8")
    return tuple(
        DictionaryRow(
            equipment=int(row["equipment"]),
            number=row["number"],
            name_zh=row["name_zh"],
            type=PointType(row["type"]),
            source_kind=SourceKind(row["source_kind"]),
            sources=tuple(row["sources"].split(";")),
            unit_wide=row["unit_wide"] == "yes",
            categories=tuple(row["categories"].split(";")),
        )
        for row in csv.DictReader(text.splitlines())
    )
