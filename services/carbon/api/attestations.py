"""Attestation over HTTP: signed heads, and proofs as documents that ``verifier.py`` reads by itself."""

from datetime import date
from functools import partial
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from libs.common.contracts.base import CalendarDate, UtcTime
from libs.common.errors import Forbidden, InvalidInput
from libs.common.ids import SiteId
from libs.common.tokens import Principal
from libs.common.web import ProblemDetail
from services.carbon.api.common import Reader
from services.carbon.domain.attestation import Fact, Kind
from services.carbon.usecases.attestchecks import CIRCUITS_AT_ONCE, Checked, Checks, Fault
from services.carbon.usecases.attesting import CHAIN_AT_MOST, Proofs, Sees, sees_all

Place = Annotated[int, Field(ge=0, le=2**53)]
Hashes = list[str]


class HeadReply(BaseModel):
    """A signed tree head; the signature is over its other fields as sorted, compact JSON in UTF-8."""

    kind: Literal["tree_head"]
    tree: str = Field(description="civil day of the tree")
    size: int = Field(description="leaves")
    root: str = Field(description="RFC 6962 root, hexadecimal")
    at: str = Field(description="when it was signed, by this platform's clock")
    final: bool = Field(description="the tree was closed with it; it is leaf 0 of the next one")
    key: str = Field(description="SHA-256 of the public key (SubjectPublicKeyInfo, DER), hexadecimal")
    signature: str = Field(description="Ed25519, base64")


class HeadDocument(BaseModel):
    """The newest head; whoever keeps it can later show that nothing under it was changed."""

    type: Literal["head"]
    head: HeadReply


class InclusionDocument(BaseModel):
    """That a leaf is in the tree of a head; not that the meter behind it was right, or that nothing was left out."""

    type: Literal["inclusion"]
    leaf: str = Field(description="canonical text of the leaf; its SHA-256 is what the tree holds")
    index: int
    head: HeadReply
    path: Hashes = Field(description="RFC 6962 audit path, hexadecimal")


class DayDocument(BaseModel):
    """That a tree begins with the closing head of the one before."""

    leaf: str
    head: HeadReply
    path: Hashes


class ConsistencyDocument(BaseModel):
    """That everything under one head is unchanged under a later one."""

    type: Literal["consistency"]
    old: HeadReply
    new: HeadReply
    path: Hashes = Field(description="RFC 6962 consistency proof, to the new head or to the one that closed the tree")
    closed: HeadReply | None = None
    days: list[DayDocument]


class ChainDocument(BaseModel):
    """The leaves of one subject in the order in which they were committed."""

    type: Literal["chain"]
    subject: str
    entries: list[str] = Field(description="canonical texts; each holds the hash of the one before")
    places: list[str] = Field(description="<tree>/<index> of each")


class FaultReply(BaseModel):
    """Something that is not as it was committed."""

    leaf: str | None = Field(description="<tree>/<index>; null for the tree itself")
    subject: str | None
    message: str
    message_zh: str


class CheckReply(BaseModel):
    """What the operator's own look at a part of a tree has found."""

    tree: date
    first: int
    end: int = Field(description="leaves from first up to here were looked at")
    size: int = Field(description="leaves of the tree")
    next: int | None = Field(description="where to go on; null at the end of the tree")
    faults: list[FaultReply]


class BooksReply(BaseModel):
    """What the operator's own look at a part of the books has found."""

    circuits: int = Field(description="so many circuits' intervals were looked at")
    next: str | None = Field(description="where to go on, as after; null at the end")
    faults: list[FaultReply]


class Places(Protocol):
    """The site tree, for users who see a part of it."""

    def places_of(self, site: SiteId) -> frozenset[str]:
        """Return a site and ``region:<id>`` of each region that it lies in."""


def build_attestations(proofs: Proofs, checks: Checks, places: Places) -> APIRouter:
    """Return the routes of attestation."""
    router = APIRouter(prefix="/api/v1/attestations", tags=["attestations"])

    def sees(who: Principal) -> Sees:
        return sees_all if who.sites is None else partial(_sees, frozenset(who.sites), places)

    absent: dict[int | str, dict[str, Any]] = {404: {"model": ProblemDetail}, 409: {"model": ProblemDetail}}

    @router.get("/heads", summary="Signed tree heads of days, the oldest first")
    async def heads(
        _: Reader,
        start: Annotated[CalendarDate, Query(alias="from", description="first civil day")],
        end: Annotated[CalendarDate, Query(alias="to", description="last civil day")],
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[HeadReply]:
        return [HeadReply(**one) for one in await proofs.heads(start, end, limit)]

    @router.get("/heads/latest", summary="The newest signed tree head, to be kept by a witness", responses=absent)
    async def latest(_: Reader) -> HeadDocument:
        return HeadDocument(**await proofs.latest())

    @router.get("/inclusion", summary="Proof that an interval, a factor or a report was committed", responses=absent)
    async def inclusion(
        who: Reader,
        subject: Annotated[
            str,
            Query(max_length=200, description="circuit:<id>, medium:<register>/<circuit>, factor:<id>, report:<id>"),
        ],
        at: Annotated[UtcTime | None, Query(description="start of the interval; the last leaf without it")] = None,
        version: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="the last one without it")] = None,
    ) -> InclusionDocument:
        return InclusionDocument(**await proofs.inclusion(subject, at, version, sees=sees(who)))

    @router.get("/leaves/{tree}/{index}", summary="Proof of a leaf by its place", responses=absent)
    async def leaf(who: Reader, tree: CalendarDate, index: Place) -> InclusionDocument:
        return InclusionDocument(**await proofs.inclusion_at(tree, index, sees=sees(who)))

    @router.get("/consistency", summary="Proof that what one head covered is unchanged under a later one",
                responses=absent)  # fmt: skip
    async def consistency(
        _: Reader,
        old_tree: CalendarDate,
        old_size: Annotated[int, Query(ge=1, le=2**53)],
        new_tree: Annotated[CalendarDate | None, Query(description="the newest head without it")] = None,
        new_size: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    ) -> ConsistencyDocument:
        if (new_tree is None) != (new_size is None):
            raise InvalidInput(
                "new_tree and new_size name one head: give both or neither",
                message_zh="new_tree 与 new_size 共同指定一个树头:须同时给出或都不给出",
            )
        new = None if new_tree is None or new_size is None else (new_tree, new_size)
        return ConsistencyDocument(**await proofs.consistency((old_tree, old_size), new))

    @router.get("/chain", summary="The leaves of one circuit, factor or report in their order", responses=absent)
    async def chain(
        who: Reader,
        subject: Annotated[str, Query(max_length=200)],
        after: Annotated[int, Query(ge=0, le=2**53, description="only leaves with a higher number")] = 0,
        limit: Annotated[int, Query(ge=1, le=CHAIN_AT_MOST)] = 1000,
    ) -> ChainDocument:
        return ChainDocument(**await proofs.chain(subject, after, limit, sees=sees(who)))

    @router.get("/check", summary="Compare a part of a tree with the books, and name what is not as it was committed",
                responses=absent)  # fmt: skip
    async def check(
        who: Reader,
        tree: Annotated[CalendarDate, Query(description="civil day of the tree")],
        first: Annotated[int, Query(ge=0, le=2**53, description="leaf to begin with")] = 0,
    ) -> CheckReply:
        _require_all_sites(who)
        return _checked(await checks.check(tree, first))

    @router.get("/check/books", summary="Look for rows of the books that were never committed", responses=absent)
    async def check_books(
        who: Reader,
        after: Annotated[str, Query(max_length=200, description="circuit after which to begin; all without it")] = "",
    ) -> BooksReply:
        _require_all_sites(who)
        found = await checks.check_books(after)
        more = len(found.circuits) == CIRCUITS_AT_ONCE
        return BooksReply(
            circuits=len(found.circuits),
            next=found.circuits[-1] if more else None,
            faults=[_fault(one) for one in found.faults],
        )

    return router


def _sees(sites: frozenset[str], places: Places, fact: Fact) -> bool:
    """Return whether somebody limited to a part of the site tree may see a fact; reports are about any part of it."""
    if fact.kind is Kind.INTERVAL:
        return not places.places_of(SiteId(str(fact.fields["site"]))).isdisjoint(sites)
    return fact.kind is not Kind.REPORT


def _require_all_sites(who: Principal) -> None:
    if who.sites is not None:
        raise Forbidden(
            "the whole log is looked at only by who sees all sites",
            message_zh="仅可查看全部站点的用户可校验整个日志",
        )


def _fault(one: Fault) -> FaultReply:
    return FaultReply(leaf=one.leaf, subject=one.subject, message=one.english, message_zh=one.chinese)


def _checked(found: Checked) -> CheckReply:
    return CheckReply(
        tree=found.tree,
        first=found.first,
        end=found.end,
        size=found.size,
        next=found.end if found.end < found.size else None,
        faults=[_fault(one) for one in found.faults],
    )
