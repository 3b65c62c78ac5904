"""Products and their carbon footprints: kept by version, computed with the factors that a version knew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.tokens import Principal
from services.carbon.documents.products import product_of
from services.carbon.domain.factors import EmissionFactor, FactorLibrary
from services.carbon.domain.footprint import Footprint, Product, footprint, require_negligible
from services.carbon.store import inventories
from services.carbon.store import products as store
from services.carbon.store.products import ProductRow
from services.carbon.usecases.ports import Audit, audit_event


class UnknownProduct(NotFound):
    """There is no such product, or version of one."""

    code = "unknown_product"
    title_zh = "产品不存在"


class ProductExists(Conflict):
    """A product of that id is there already."""

    code = "product_exists"
    title_zh = "产品已存在"


class ProductChanged(Conflict):
    """Somebody else has changed the product since it was read."""

    code = "product_changed"
    title_zh = "产品已被修改"


@dataclass(frozen=True, slots=True)
class KnownFootprint:
    """The footprint of a version of a product, as known on a day."""

    row: ProductRow
    footprint: Footprint
    known_on: date


class Footprints:
    """Keeps products and computes their footprints."""

    def __init__(self, *, db: Database, clock: Clock, audit: Audit, factors: Sequence[EmissionFactor]) -> None:
        self._db = db
        self._clock = clock
        self._audit = audit
        self._factors = factors

    async def create(self, document: Mapping[str, Any], who: Principal) -> ProductRow:
        """Store a new product.

        Raises:
            InvalidInput: The domain refuses it, or more is left out than is negligible.
            WrongFamily: A factor is not made for products.
            ProductExists: There is one of that id.
        """
        product = await self._require_sound(document)
        row = self._row(product.product_id, 1, document, who, "created")
        async with self._db.write() as conn:
            if not await store.add_version(conn, row):
                raise ProductExists(
                    f"product {product.product_id} is there already", message_zh=f"产品 {product.product_id} 已存在"
                )
            await self._told(conn, "product.create", row, None, who)
        return row

    async def replace(
        self, product_id: str, document: Mapping[str, Any], *, version: int, reason: str, who: Principal
    ) -> ProductRow:
        """Store a new version of a product in place of the one that was read.

        Raises:
            InvalidInput: The domain refuses it, it is of another product, or more is left out than is negligible.
            WrongFamily: A factor is not made for products.
            UnknownProduct: There is none.
            ProductChanged: ``version`` is not the latest any more.
        """
        if document.get("product_id") != product_id:
            raise InvalidInput(
                f"product_id: expected {product_id}, found {document.get('product_id')}",
                message_zh=f"product_id 应为 {product_id},实际为 {document.get('product_id')}",
            )
        await self._require_sound(document)
        async with self._db.write() as conn:
            before = await store.fetch_version(conn, product_id)
            if before is None:
                raise _unknown(product_id)
            row = self._row(product_id, before.version + 1, document, who, reason)
            if before.version != version or not await store.add_version(conn, row):
                raise ProductChanged(
                    f"product {product_id} has been changed: its version is {before.version}; read it again",
                    message_zh=f"产品 {product_id} 已被修改,当前版本为 {before.version},请重新读取",
                    version=before.version,
                )
            await self._told(conn, "product.replace", row, before, who)
        return row

    async def get(self, product_id: str, version: int | None = None) -> ProductRow:
        """Return a version of a product, or the latest.

        Raises:
            UnknownProduct: There is none.
        """
        async with self._db.read() as conn:
            found = await store.fetch_version(conn, product_id, version)
        if found is None:
            raise _unknown(product_id)
        return found

    async def history(self, product_id: str) -> Sequence[ProductRow]:
        """Return every version of a product, oldest first.

        Raises:
            UnknownProduct: There is none.
        """
        async with self._db.read() as conn:
            found = await store.fetch_history(conn, product_id)
        if not found:
            raise _unknown(product_id)
        return found

    async def listed(self, *, after: str, limit: int) -> Sequence[ProductRow]:
        """Return products by id."""
        async with self._db.read() as conn:
            return await store.fetch_all(conn, after=after, limit=limit)

    async def footprint(self, row: ProductRow, known_on: date | None = None) -> KnownFootprint:
        """Return the footprint of a version with the factors known on a day, by default that of the version itself.

        So a footprint that was told once stays what it was, whatever is published later.
        """
        day = known_on or row.changed_at.astimezone(CIVIL_ZONE).date()
        found = footprint(await self._every_factor(), day, product_of(row.document))
        return KnownFootprint(row, found, day)

    async def _require_sound(self, document: Mapping[str, Any]) -> Product:
        product = product_of(document)
        today = self._clock.now().astimezone(CIVIL_ZONE).date()
        require_negligible(footprint(await self._every_factor(), today, product))
        return product

    async def _every_factor(self) -> FactorLibrary:
        async with self._db.read() as conn:
            return FactorLibrary([*self._factors, *await inventories.fetch_factors(conn)])

    async def _told(
        self, conn: WriteConn, action: str, row: ProductRow, before: ProductRow | None, who: Principal
    ) -> None:
        event = audit_event(
            who,
            action,
            f"product:{row.product_id}",
            row.changed_at,
            before=None if before is None else {"version": before.version},
            after={"version": row.version, "name": row.document["name"]},
            reason=row.reason,
        )
        await self._audit(conn, event)

    def _row(
        self, product_id: str, version: int, document: Mapping[str, Any], who: Principal, reason: str
    ) -> ProductRow:
        return ProductRow(product_id, version, document, who.actor, self._clock.now(), reason)


def _unknown(product_id: str) -> UnknownProduct:
    return UnknownProduct(f"there is no product {product_id}", message_zh=f"没有产品 {product_id}")
