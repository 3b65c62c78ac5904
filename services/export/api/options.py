"""HTTP of option templates: the file of a centre in, what was read of it out."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from libs.common.errors import Forbidden
from libs.common.tokens import Principal
from libs.common.web import require
from services.export.orders.option_books import StoredBook
from services.export.usecases.administration import Actor
from services.export.usecases.options import OptionBooks

Reader = Annotated[Principal, Depends(require("export:read"))]
Admin = Annotated[Principal, Depends(require("export:admin"))]


FILE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "StdSPConfigOptionDic.xml: signals (SPID) with their options",
        "content": {"application/xml": {"schema": {"type": "string"}}},
    }
}


class OptionView(BaseModel):
    """One template; null is what it does not say."""

    option_id: str
    level: int | None
    threshold: float | None
    start_delay_s: float | None
    end_delay_s: float | None
    hysteresis: float | None
    period_s: float | None
    absolute: float | None
    relative: float | None


class OptionBookView(BaseModel):
    """Templates of one centre."""

    connection_id: str
    name: str
    version: str
    ignores_storage: bool = Field(description="whether what templates say of storage is passed over")
    source: str
    changed_by: str
    changed_at: datetime
    options: dict[str, list[OptionView]] = Field(description="by point id (SPID)")


def build_options_router(books: OptionBooks) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/api/v1/sc-connections/{connection_id}/options", tags=["sc-connections"])

    @router.get("", summary="Option templates of a centre's own dictionary (dialect Y)")
    async def read_options(connection_id: str, _: Reader) -> OptionBookView:
        return _view(connection_id, await books.stored(connection_id))

    @router.put("", summary="Replace a centre's option templates by its StdSPConfigOptionDic.xml", openapi_extra=FILE)
    async def put_options(
        connection_id: str,
        source: Annotated[str, Query(min_length=1, max_length=500, description="where the file comes from")],
        who: Admin,
        request: Request,
        ignores_storage: Annotated[
            bool,
            Query(description="pass over Period, AbsoluteVal and RelativeVal; else a template that says another way "
                  "of storing than one value an hour cannot be chosen"),
        ] = False,
    ) -> OptionBookView:  # fmt: skip
        """The centre may then choose among them (SET_SPCONFIGOPTION) as far as its permit for thresholds reaches."""
        _unlimited(who)
        found = await books.put(
            connection_id,
            await request.body(),
            ignores_storage=ignores_storage,
            source=source,
            actor=_actor(who, request),
        )
        return _view(connection_id, found)

    @router.delete("", status_code=204, summary="Forget a centre's option templates; what holds stays")
    async def remove_options(connection_id: str, who: Admin, request: Request) -> Response:
        _unlimited(who)
        await books.remove(connection_id, _actor(who, request))
        return Response(status_code=204)

    return router


def _view(connection_id: str, stored: StoredBook) -> OptionBookView:
    book = stored.book
    return OptionBookView(
        connection_id=connection_id, name=book.name, version=book.version, ignores_storage=book.ignores_storage,
        source=stored.source, changed_by=stored.changed_by, changed_at=stored.changed_at,
        options={
            point_id: [OptionView.model_validate(one, from_attributes=True) for one in options.values()]
            for point_id, options in book.options.items()
        },
    )  # fmt: skip


def _unlimited(who: Principal) -> None:
    if who.sites is not None:
        raise Forbidden(
            "only users who are not limited to sites may change option templates",
            message_zh="只有不限局站的用户可以修改配置选项模板",
        )


def _actor(who: Principal, request: Request) -> Actor:
    return Actor(who.actor, request.headers.get("x-request-id"))
