"""What people and programs send about feeds: what is chosen, where it goes, what a party has of a day."""

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from libs.common.contracts.base import Flag, Number
from services.export.domain.feeds import DestinationKind, Egress, Format, Selection, Source
from services.export.domain.rendering import CONTENT_TYPES
from services.export.domain.rows import COLUMNS, PointSum, Tally
from services.export.usecases.feeds import DestinationWish, FeedWish

Name = Annotated[str, Field(min_length=1, max_length=200)]
BatchNumber = Annotated[int, Field(ge=1, le=2**62)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FeedBody(_Body):
    """What is chosen of all readings, and how it is cut into batches."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "Guangzhou to both parties", "sites": ["region:440100"], "points": ["energy_*"]}]
        }
    )

    name: Name
    sites: tuple[str, ...] | None = Field(
        default=None, max_length=10_000, description="only these sites or region:<id>; none: all that its owner may see"
    )
    devices: tuple[str, ...] | None = Field(default=None, max_length=10_000, description="only these; none: all")
    points: tuple[str, ...] | None = Field(
        default=None, max_length=500, description="only these; with * and ? for many; none: all"
    )
    sources: tuple[Source, ...] = Field(
        default=(Source.LIVE, Source.BACKFILL),
        min_length=1,
        max_length=2,
        description="what comes live, what is filled in",
    )
    max_rows: int = Field(default=5000, ge=1, le=20_000, description="of a batch; a row is one value of one point")
    max_wait_s: Number = Field(default=10.0, ge=1, le=3600, description="after which a batch is closed, full or not")
    keep_s: Number = Field(
        default=3 * 86_400.0, ge=60, le=31 * 86_400.0,
        description="how long the rows of a batch are kept after everybody has them, to be told once more",
    )  # fmt: skip

    def wish(self) -> FeedWish:
        """Return what the use case takes."""
        selection = Selection(
            sites=self.sites, devices=self.devices, points=self.points, sources=frozenset(self.sources)
        )
        return FeedWish(self.name, selection, self.max_rows, self.max_wait_s, self.keep_s)


class EgressBody(_Body):
    """By which way the destination is reached."""

    proxy: str | None = Field(
        default=None, max_length=300, description="http://host:port (CONNECT) or socks5://host:port"
    )
    source_address: str | None = Field(default=None, max_length=45, description="our own address to come from")
    trust: str | None = Field(
        default=None, max_length=200_000, description="PEM of the authorities that count; none: the public ones"
    )


class FormatBody(_Body):
    """How rows are written."""

    kind: str = Field(default="json", description=", ".join(CONTENT_TYPES))
    columns: dict[str, str] = Field(
        default_factory=lambda: {name: name for name in COLUMNS}, min_length=1, max_length=50,
        description=f"the destination's name of a column to ours ({', '.join(COLUMNS)}), or to =text",
    )  # fmt: skip
    envelope: Any = Field(
        default=None,
        description='of json: any JSON with "$rows" once, and "$feed", "$batch", "$count", "$hash" where wanted',
    )
    numbers: Flag = Field(default=True, description="whether values are numbers; else decimal texts")


class DestinationBody(_Body):
    """A place that is told the feed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "energy service company",
                    "kind": "http",
                    "address": {
                        "url": "https://esco.example.com/readings",
                        "auth": "oauth2",
                        "token_url": "https://esco.example.com/token",
                    },
                    "secrets": {"client_id": "wattring", "client_secret": "…"},
                    "egress": {"proxy": "socks5://10.0.0.5:1080"},
                    "format": {"columns": {"meter": "device_id", "item": "point", "t": "source_time", "v": "value"}},
                }
            ]
        }
    )

    name: Name
    kind: DestinationKind
    address: dict[str, Any] = Field(max_length=30, description="what the kind needs")
    secrets: dict[str, SecretStr] | None = Field(
        default=None, max_length=20,
        description="stored encrypted, never shown; replaces all that are stored; none keeps them while address and "
        "way stay the same",
    )  # fmt: skip
    egress: EgressBody = EgressBody()
    format: FormatBody = FormatBody()
    timeout_s: Number = Field(default=30.0, ge=0.5, le=300, description="for one batch")
    min_interval_s: Number = Field(default=0.0, ge=0, le=3600, description="between two batches: the rate")
    party: str | None = Field(
        default=None,
        pattern=r"^(user|key):.{1,200}$",
        description="who receives there and may compare, such as key:abc",
    )

    @field_validator("secrets")
    @classmethod
    def _are_short(cls, value: dict[str, SecretStr] | None) -> dict[str, SecretStr] | None:
        if value is not None and any(len(each.get_secret_value()) > 20_000 for each in value.values()):
            raise ValueError("expected secrets of at most 20000 characters each")
        return value

    def wish(self) -> DestinationWish:
        """Return what the use case takes."""
        secrets = None
        if self.secrets is not None:
            secrets = {name: each.get_secret_value() for name, each in self.secrets.items()}
        return DestinationWish(
            name=self.name, kind=self.kind, address=self.address, egress=Egress(**self.egress.model_dump()),
            format=Format(**self.format.model_dump()), timeout_s=self.timeout_s, min_interval_s=self.min_interval_s,
            party=self.party, secrets=secrets,
        )  # fmt: skip


class NewDestinationBody(DestinationBody):
    """A new one."""

    from_batch: BatchNumber | None = Field(
        default=None, description="the first that it is told, if its rows are still kept; none: the next that is closed"
    )


class AgainBody(_Body):
    """Which batches are told once more."""

    first: BatchNumber
    last: BatchNumber | None = Field(default=None, description="default: only the first; at most 10,000 in one call")


class LeaveOutBody(_Body):
    """The batch that the destination is at."""

    batch: BatchNumber


class PointCheck(_Body):
    """What a party has of one point."""

    rows: int = Field(ge=0)
    values: int = Field(ge=0)
    sum: str = Field(max_length=1000, description="exact decimal")

    @field_validator("sum")
    @classmethod
    def _is_decimal(cls, value: str) -> str:
        try:
            found = Decimal(value)
        except InvalidOperation as exc:
            raise ValueError("expected a decimal") from exc
        if not found.is_finite() or abs(found.adjusted()) > 400:
            raise ValueError("expected a finite decimal")
        return value


class CheckBody(_Body):
    """What a party has of a day."""

    rows: int = Field(ge=0)
    hash: Hash
    points: dict[str, PointCheck] | None = Field(default=None, max_length=2000, description="compared when given")
    batches: dict[BatchNumber, Hash] | None = Field(
        default=None, max_length=100_000, description="hash of the day's rows of each batch; names those that differ"
    )
    through_batch: int | None = Field(default=None, ge=0, description="the last that the party has counted")
    send_again: Flag = Field(default=False, description="whether batches that are missing or wrong are told once more")

    def tally(self) -> Tally:
        """Return what the party has."""
        points = {
            name: PointSum(each.rows, each.values, Decimal(each.sum)) for name, each in (self.points or {}).items()
        }
        return Tally(self.rows, int(self.hash, 16), points)
