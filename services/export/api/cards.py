"""HTTP of the card platform for other services: what alarm asks when a device is silent; nothing changes a card."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from libs.common.tokens import Principal
from libs.common.web import require
from services.export.cards.client import BATCH, CardAnswer, CardPort

CardReader = Annotated[Principal, Depends(require("export:cards"))]
Number = Annotated[str, Field(pattern=r"^[0-9]{10,15}$")]


class CardReply(BaseModel):
    """What the platform says of a card; a fact that is absent is not known."""

    facts: Mapping[str, bool | float | str]
    at: datetime
    missing: Sequence[str] = Field(description="interfaces that did not answer, though others did")


class StatesBody(BaseModel):
    """Cards to ask about."""

    model_config = ConfigDict(extra="forbid")

    numbers: Sequence[Number] = Field(min_length=1, max_length=BATCH)


class StatesReply(BaseModel):
    """Number to state (1 to 7); a card that the platform does not name is absent."""

    states: Mapping[str, str]


def build_cards_router(cards: CardPort) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/cards/v1", tags=["cards"])

    @router.get("/{number}", summary="State, arrears, usage and kind of a card")
    async def card(number: Number, _: CardReader) -> CardReply:
        return _reply(await cards.card(number))

    @router.get("/{number}/session", summary="Network session and directed addresses of a card")
    async def session(number: Number, _: CardReader) -> CardReply:
        return _reply(await cards.session(number))

    @router.post("/states", summary="States of up to 100 cards")
    async def states(body: StatesBody, _: CardReader) -> StatesReply:
        return StatesReply(states=await cards.states(body.numbers))

    return router


def _reply(answer: CardAnswer) -> CardReply:
    return CardReply(facts=answer.facts, at=answer.at, missing=answer.missing)
