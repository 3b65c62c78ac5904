"""What was used and what it emitted: intervals of circuits, and results of nodes."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from libs.common.contracts.base import CalendarDate, Code, Flag, Fraction, Number, Payload, UtcTime, needs
from libs.common.ids import CircuitId, DeviceId, SiteId


class IntervalFlag(StrEnum):
    """How an interval's figure came about."""

    MEASURED = "measured"
    ESTIMATED_INTERPOLATED = "estimated_interpolated"
    ESTIMATED_ALLOCATED = "estimated_allocated"
    MANUAL = "manual"
    MISSING = "missing"
    REJECTED = "rejected"

    @property
    def has_value(self) -> bool:
        """Whether there is a figure; missing is not zero."""
        return self not in (IntervalFlag.MISSING, IntervalFlag.REJECTED)


class Medium(StrEnum):
    """What flows through a circuit that is not electricity."""

    WATER = "water"
    GAS = "gas"
    HEAT = "heat"
    COLD = "cold"
    STEAM = "steam"
    FUEL = "fuel"


class Direction(StrEnum):
    """Which way, seen from the grid."""

    IMPORT = "import"
    EXPORT = "export"


class Interval(Payload):
    """Consumption of one circuit in one half-open interval ``[start, end)``; the highest version holds."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                needs(
                    "interval_flag",
                    [flag for flag in IntervalFlag if flag.has_value],
                    ["energy_kwh"],
                    ["medium", "quantity", "unit"],
                )
            ]
        }
    )

    circuit_id: CircuitId
    site_id: SiteId
    start: UtcTime
    end: UtcTime
    interval_flag: IntervalFlag
    version: int = Field(ge=1)
    energy_kwh: Number | None = None
    """Electricity; absent when missing, rejected, or of another medium."""
    medium: Medium | None = None
    """Of what ``quantity`` is; absent for electricity."""
    quantity: Number | None = None
    unit: str | None = None
    """Of ``quantity``, canonical: m3, kWh, t …"""
    direction: Direction | None = None
    """Absent is import."""
    provisional: bool | None = None
    """The interval is not over, or late data may still come."""
    lower_bound: bool | None = None
    """A register was reset inside: what was used before the reset is unknown."""
    device_id: DeviceId | None = None
    """The meter behind it; absent for a virtual one."""
    register_start: Number | None = None
    """Register at ``start``, corrected and with its ratio. [kWh or unit]"""
    register_end: Number | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.end <= self.start:
            raise ValueError("end must lie after start")
        if self.medium is None and (self.quantity is not None or self.unit is not None):
            raise ValueError("quantity and unit need a medium")
        if self.medium is not None and (self.energy_kwh is not None or self.unit is None):
            raise ValueError("a medium has quantity and unit, not energy_kwh")
        value = self.energy_kwh if self.medium is None else self.quantity
        if (value is not None) != self.interval_flag.has_value:
            raise ValueError(f"an interval flagged {self.interval_flag} {'needs' if value is None else 'has no'} value")
        return self


class Granularity(StrEnum):
    """Length of a result's period, in civil time."""

    QUARTER_HOUR = "quarter_hour"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"
    OTHER = "other"


class Period(Payload):
    """Half-open ``[start, end)``."""

    start: UtcTime
    end: UtcTime
    granularity: Granularity

    @model_validator(mode="after")
    def _has_length(self) -> Self:
        if self.end <= self.start:
            raise ValueError("end must lie after start")
        return self


class NodeKind(StrEnum):
    """What a result is about."""

    CIRCUIT = "circuit"
    ROOM = "room"
    SITE = "site"
    REGION = "region"
    ORGANISATION = "organisation"
    PLAN = "plan"
    PROJECT = "project"


class CarbonResult(Payload):
    """One figure of one node and period; the highest version holds."""

    node: str
    """Id of a registry entity, a plan or a project; the key."""
    period: Period
    measure: Code
    """What was computed: ``energy``, ``cost``, ``pue``, ``emission_location_based`` …"""
    unit: str
    completeness: Fraction
    """Share of the period's intervals that are measured."""
    version: int = Field(ge=1)
    value: Number | None = None
    """Absent when it is unknown, which is not zero."""
    node_kind: NodeKind | None = None
    site_id: SiteId | None = None
    provisional: bool | None = None
    shares: Mapping[IntervalFlag, Fraction] | None = None
    """Share of the energy by flag."""
    factor_id: str | None = None
    factor_value: Number | None = None
    factor_unit: str | None = None
    factor_source: str | None = None
    target: Number | None = None
    target_exceeded: bool | None = None
    computed_at: UtcTime | None = None


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in hexadecimal."""


class AttestationHead(Payload):
    """A signed head of the attestation log: who keeps it can later show that nothing under it was changed.

    The signature is over the other fields as compact JSON in UTF-8 with sorted names.
    """

    kind: Literal["tree_head"]
    tree: CalendarDate
    """Civil day of the tree."""
    size: int = Field(ge=1)
    """Leaves of the tree."""
    root: Digest
    """Of the tree (RFC 6962)."""
    at: UtcTime
    """When it was signed, by the signer's clock."""
    final: Flag
    """The tree was closed with it; it is leaf 0 of the next one."""
    key: Digest
    """Of the public key (SubjectPublicKeyInfo, DER) that the signature holds under."""
    signature: str
    """Ed25519, base64."""


class ReportFile(Payload):
    """A file of a finished report."""

    format: Code
    """``xlsx``, ``pdf``."""
    language: Code
    """``zh``, ``en``."""
    digest: Digest
    """SHA-256 of the file."""
    size: int = Field(ge=0)
    """[B]"""


class FinishedReport(Payload):
    """A report was made and filed; its content and files are fetched under ``path``, by somebody who may."""

    report: str = Field(max_length=120)
    """Definition and edition: ``park-monthly/2026-03``; the key."""
    version: int = Field(ge=1)
    """Made again, an edition has the next version; the earlier ones stay."""
    kind: Code
    name: str
    start: UtcTime
    end: UtcTime
    digest: Digest
    """SHA-256 of the filed content."""
    made_at: UtcTime
    path: str
    """``/api/v1/reports/park-monthly/2026-03/versions/1``; of a file ``/files/<format>?lang=<language>`` behind it."""
    files: tuple[ReportFile, ...]
    completeness: Fraction | None = None
    """The least of its headline figures; absent where none can be incomplete."""
