"""Own factors, certificates, and inventories: entered, computed, published, restated."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Protocol

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.db import ReadConn, WriteConn
from libs.common.errors import Conflict, NotFound
from libs.common.tokens import Principal
from services.carbon.domain.coal import CoalCoefficient, CoalTotal
from services.carbon.domain.emissions.certificates import (
    Certificate,
    CertificateUsedTwice,
    Registered,
    check_certificates,
)
from services.carbon.domain.emissions.knowledge import Knowledge
from services.carbon.domain.factors import EmissionFactor, FactorLibrary
from services.carbon.domain.inventory.coal import coal_of
from services.carbon.domain.inventory.compute import Result, civil_year, compute
from services.carbon.domain.inventory.publication import (
    Avoided,
    AvoidedPublication,
    Publication,
    Restatement,
    avoided,
    publish,
    publish_avoided,
    restate,
)
from services.carbon.domain.inventory.sources import Inputs, Source
from services.carbon.domain.statements import Stated, StatementKind
from services.carbon.statements import decode_avoided, decode_publication, digest, encode_avoided, encode_publication
from services.carbon.usecases.metering import Metering
from services.carbon.usecases.ports import Audit, audit_event


class StatementAltered(Conflict):
    """The stored text of a publication no longer has the digest that was stored with it."""

    code = "statement_altered"
    title_zh = "已发布清单被改动"


class Books(Protocol):
    """Where factors, certificates and statements are kept (``store.inventories``)."""

    async def add_factor(self, conn: WriteConn, row: EmissionFactor) -> None:
        """Store a revision of an own factor."""

    async def fetch_factors(self, conn: ReadConn | WriteConn) -> list[EmissionFactor]:
        """Return all revisions of all own factors."""

    async def add_certificate(self, conn: WriteConn, one: Certificate, *, revision: int, by: str, at: datetime) -> bool:
        """Store a revision of a certificate; return whether it was new."""

    async def fetch_certificates(self, conn: ReadConn | WriteConn, numbers: Sequence[str]) -> list[Registered]:
        """Return the newest revision of certificates by their numbers."""

    async def use_certificates(
        self, conn: WriteConn, used: Sequence[Registered], *, inventory_id: str, by: str, at: datetime
    ) -> dict[str, str]:
        """Book certificates for an inventory; return who holds each of them now."""

    async def fetch_uses(self, conn: ReadConn | WriteConn, numbers: Sequence[str]) -> dict[str, str]:
        """Return which inventory uses each certificate."""

    async def lock_statement(self, conn: WriteConn, kind: StatementKind, statement_id: str) -> None:
        """Keep other publications of the statement out until the transaction ends."""

    async def last_version(self, conn: ReadConn | WriteConn, kind: StatementKind, statement_id: str) -> int:
        """Return the newest published version of a statement, 0 when there is none."""

    async def add_statement(self, conn: WriteConn, one: Stated, statement: str) -> None:
        """Store a published version."""

    async def fetch_statement(
        self, conn: ReadConn, kind: StatementKind, statement_id: str, version: int
    ) -> tuple[str, str] | None:
        """Return the text of a published version and its digest."""

    async def fetch_stated(
        self, conn: ReadConn, kind: StatementKind, after: tuple[str, int] | None, limit: int
    ) -> list[Stated]:
        """Return published versions without their texts, by id and version, after one of them."""


class Connections(Protocol):
    """Transactions (``libs.common.db.Database``)."""

    def read(self) -> AbstractAsyncContextManager[ReadConn]:
        """Return a transaction that only reads."""

    def write(self) -> AbstractAsyncContextManager[WriteConn]:
        """Return a transaction."""


@dataclass(frozen=True, slots=True)
class Published:
    """What was just published, with the whole result and the digest of its text."""

    publication: Publication
    result: Result
    digest: str


class Inventories:
    """Own factors, certificates and inventories of one installation."""

    def __init__(
        self,
        *,
        db: Connections,
        books: Books,
        metering: Metering,
        clock: Clock,
        shipped: FactorLibrary,
        coal: Sequence[CoalCoefficient],
        audit: Audit,
        software: str,
    ) -> None:
        self._db = db
        self._books = books
        self._metering = metering
        self._clock = clock
        self._shipped = shipped
        self.coal = coal
        self._audit = audit
        self._software = software

    async def library(self) -> FactorLibrary:
        """Return the shipped factors and the own ones, every revision."""
        async with self._db.read() as conn:
            return await self._library(conn)

    async def revisions(self, factor_id: str) -> Sequence[EmissionFactor]:
        """Return all revisions of a factor, oldest first.

        Raises:
            NotFound: There is no such factor.
        """
        found = (await self.library()).revisions(factor_id)
        if not found:
            raise NotFound(f"there is no factor {factor_id}", message_zh=f"没有排放因子 {factor_id}")
        return found

    def today(self) -> date:
        """Return the civil day."""
        return self._clock.now().astimezone(CIVIL_ZONE).date()

    async def enter_factor(self, row: EmissionFactor, *, who: Principal) -> EmissionFactor:
        """Add an own factor or a revision of one; it is known from today on and never before.

        Raises:
            InvalidInput: It cannot stand; see ``factors.library.check_revision``.
            RevisionTaken: The revision exists already, among the shipped ones too.
        """
        now = self._clock.now()
        entered = replace(row, entered_by=who.actor, entered_at=now, known_from=now.astimezone(CIVIL_ZONE).date())
        async with self._db.write() as conn:
            (await self._library(conn)).with_rows([entered])
            await self._books.add_factor(conn, entered)
            said = {"value": str(entered.value), "unit": entered.unit, "withdrawn": entered.withdrawn}
            subject = f"factor:{entered.factor_id}:{entered.revision}"
            await self._audit(conn, audit_event(who, "factor.enter", subject, now, after=said, reason=entered.evidence))
        return entered

    async def enter_certificate(self, one: Certificate, *, revision: int, who: Principal) -> None:
        """Register a certificate, or the next revision of one that no inventory uses yet.

        Raises:
            CertificateUsedTwice: An inventory uses it, so what it said then stays.
            Conflict: The revision is not the next one.
        """
        async with self._db.write() as conn:
            holder = (await self._books.fetch_uses(conn, [one.number])).get(one.number)
            if holder is not None:
                raise CertificateUsedTwice(
                    f"certificate {one.number} is used by {holder} already and stays as it is",
                    message_zh=f"绿证 {one.number} 已被 {holder} 使用,不能再修改",
                    number=one.number,
                    inventory=holder,
                )
            before = await self._books.fetch_certificates(conn, [one.number])
            expected = before[0].revision + 1 if before else 1
            now = self._clock.now()
            if revision != expected or not await self._books.add_certificate(
                conn, one, revision=revision, by=who.actor, at=now
            ):
                raise Conflict(
                    f"certificate {one.number}: revision: expected {expected}, found {revision}",
                    message_zh=f"绿证 {one.number}:版本应为 {expected},实际为 {revision}",
                )
            said = {"vintage": one.vintage, "kwh": one.kwh, "beneficiary": one.beneficiary}
            subject = f"certificate:{one.number}:{revision}"
            await self._audit(
                conn, audit_event(who, "certificate.enter", subject, now, after=said, reason=one.evidence)
            )

    async def certificates(self, numbers: Sequence[str]) -> list[Certificate]:
        """Return registered certificates in the order of their numbers.

        Raises:
            NotFound: One is not registered.
        """
        async with self._db.read() as conn:
            registered = await self._books.fetch_certificates(conn, numbers)
        found = {one.certificate.number: one.certificate for one in registered}
        for number in numbers:
            if number not in found:
                raise NotFound(f"there is no certificate {number}", message_zh=f"没有登记绿证 {number}")
        return [found[number] for number in numbers]

    async def preview(
        self, inventory_id: str, inputs: Inputs, known_on: date | None = None
    ) -> tuple[Result, CoalTotal]:
        """Return an inventory without publishing it, and the comprehensive energy consumption of its boundary.

        Raises:
            InvalidInput: Boundary, sources or certificates are wrong.
            CertificateUsedTwice: A certificate stands in another inventory.
        """
        answered = await self._metering.answer(inputs)
        numbers = [one.number for one in inputs.certificates]
        async with self._db.read() as conn:
            library = await self._library(conn)
            self._check_certificates(inventory_id, answered, await self._books.fetch_uses(conn, numbers))
        result = await asyncio.to_thread(compute, answered, Knowledge(library, known_on or self.today()))
        return result, coal_of(answered, result.lines, self.coal)

    async def publish(self, inventory_id: str, name: str, inputs: Inputs, *, who: Principal) -> Published:
        """Freeze an inventory as known today, as its next version, and book its certificates for it.

        Raises:
            InvalidInput: Boundary, sources or certificates are wrong.
            NotFound: A certificate is not registered, or not as the inputs say.
            CertificateUsedTwice: A certificate stands in another inventory.
        """
        answered = await self._metering.answer(inputs)
        self._metering.check_over(answered)
        now = self._clock.now()
        numbers = sorted(one.number for one in inputs.certificates)
        async with self._db.write() as conn:
            await self._books.lock_statement(conn, StatementKind.INVENTORY, inventory_id)
            registered = await self._books.fetch_certificates(conn, numbers)
            known = {one.certificate.number: one.certificate for one in registered}
            for one in inputs.certificates:
                if known.get(one.number) != one:
                    raise NotFound(
                        f"certificate {one.number} is not registered as the inventory states it",
                        message_zh=f"绿证 {one.number} 未登记或与登记内容不一致",
                    )
            self._check_certificates(inventory_id, answered, await self._books.fetch_uses(conn, numbers))
            holders = await self._books.use_certificates(
                conn, registered, inventory_id=inventory_id, by=who.actor, at=now
            )
            self._check_certificates(inventory_id, answered, holders)
            library = await self._library(conn)
            publication, result = await asyncio.to_thread(
                publish,
                answered,
                library,
                inventory_id=inventory_id,
                version=await self._books.last_version(conn, StatementKind.INVENTORY, inventory_id) + 1,
                known_on=self.today(),
                at=now,
                by=who.actor,
                software=self._software,
                coal=self.coal,
            )
            statement = encode_publication(publication)
            stamp = digest(statement)
            await self._file(
                conn,
                Stated(
                    kind=StatementKind.INVENTORY,
                    statement_id=inventory_id,
                    version=publication.version,
                    name=name,
                    digest=stamp,
                    table_digest=publication.table_digest,
                    known_on=publication.known_on,
                    published_at=now,
                    published_by=who.actor,
                ),
                statement,
                who,
            )
        return Published(publication, result, stamp)

    async def published(self, inventory_id: str, version: int) -> Publication:
        """Return a published version as it was frozen.

        Raises:
            NotFound: There is none.
            StatementAltered: Its text was changed behind this program's back.
        """
        return decode_publication((await self.statement(StatementKind.INVENTORY, inventory_id, version))[0])

    async def statement(self, kind: StatementKind, statement_id: str, version: int) -> tuple[str, str]:
        """Return the stored text of a published version and its digest.

        Raises:
            NotFound: There is none.
            StatementAltered: The text was changed behind this program's back.
        """
        async with self._db.read() as conn:
            found = await self._books.fetch_statement(conn, kind, statement_id, version)
        if found is None:
            raise NotFound(
                f"{kind} statement {statement_id} has no version {version}",
                message_zh=f"{kind} 报表 {statement_id} 没有第 {version} 版",
            )
        statement, stamp = found
        if digest(statement) != stamp:
            raise StatementAltered(
                f"{kind} statement {statement_id} version {version}: the stored text does not have its digest {stamp}",
                message_zh=f"{kind} 报表 {statement_id} 第 {version} 版:存储内容与摘要 {stamp} 不符",
            )
        return found

    async def stated(self, kind: StatementKind, after: tuple[str, int] | None, limit: int) -> list[Stated]:
        """Return what was published, by id and version, at most ``limit`` rows after one of them."""
        async with self._db.read() as conn:
            return await self._books.fetch_stated(conn, kind, after, limit)

    async def restate(self, inventory_id: str, version: int, *, meters: bool) -> Restatement:
        """Return what a published version would say today; the frozen one stays.

        Args:
            inventory_id: Of the inventory.
            version: The published one.
            meters: Whether the meters are asked again, so that late data count; else only factors may differ.

        Raises:
            NotFound: There is none.
            StatementAltered: Its text was changed.
        """
        publication = await self.published(inventory_id, version)
        inputs = await self._metering.answer(publication.inputs) if meters else None
        return await asyncio.to_thread(restate, publication, await self.library(), self.today(), inputs)

    async def preview_avoided(self, sources: Sequence[Source], known_on: date | None = None) -> Avoided:
        """Return what others did not emit, without publishing it.

        Raises:
            InvalidInput: A source is wrong.
        """
        knowledge = Knowledge(await self.library(), known_on or self.today())
        return await asyncio.to_thread(avoided, sources, knowledge)

    async def publish_avoided(
        self, statement_id: str, name: str, sources: Sequence[Source], *, who: Principal
    ) -> tuple[AvoidedPublication, str]:
        """Freeze a statement of avoided emissions as its next version; return it with the digest of its text.

        Raises:
            InvalidInput: A source is wrong.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            await self._books.lock_statement(conn, StatementKind.AVOIDED, statement_id)
            publication = await asyncio.to_thread(
                publish_avoided,
                sources,
                await self._library(conn),
                statement_id=statement_id,
                version=await self._books.last_version(conn, StatementKind.AVOIDED, statement_id) + 1,
                known_on=self.today(),
                at=now,
                by=who.actor,
                software=self._software,
            )
            statement = encode_avoided(publication)
            filed = Stated(
                kind=StatementKind.AVOIDED,
                statement_id=statement_id,
                version=publication.version,
                name=name,
                digest=digest(statement),
                table_digest=publication.table_digest,
                known_on=publication.known_on,
                published_at=now,
                published_by=who.actor,
            )
            await self._file(conn, filed, statement, who)
        return publication, filed.digest

    async def published_avoided(self, statement_id: str, version: int) -> AvoidedPublication:
        """Return a published statement of avoided emissions as it was frozen.

        Raises:
            NotFound: There is none.
            StatementAltered: Its text was changed behind this program's back.
        """
        return decode_avoided((await self.statement(StatementKind.AVOIDED, statement_id, version))[0])

    async def _file(self, conn: WriteConn, one: Stated, statement: str, who: Principal) -> None:
        await self._books.add_statement(conn, one, statement)
        event = audit_event(
            who,
            f"{one.kind}.publish",
            f"{one.kind}:{one.statement_id}:{one.version}",
            one.published_at,
            after={"name": one.name, "digest": one.digest},
        )
        await self._audit(conn, event)

    async def _library(self, conn: ReadConn | WriteConn) -> FactorLibrary:
        return FactorLibrary([*self._shipped.rows, *await self._books.fetch_factors(conn)])

    def _check_certificates(self, inventory_id: str, inputs: Inputs, used: dict[str, str]) -> None:
        years = {civil_year(source.span) for source in inputs.sources}
        for year in sorted({one.vintage for one in inputs.certificates}):
            # A vintage that no line is of is told as wrong against the first year that there is.
            expected = year if year in years or not years else min(years)
            check_certificates(
                [one for one in inputs.certificates if one.vintage == year],
                year=expected,
                organisation=inputs.boundary.organisation,
                inventory=inventory_id,
                used=used,
            )
