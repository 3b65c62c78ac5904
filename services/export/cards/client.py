"""Calls of the card platform: signed, few, remembered for a while, and never more than reading."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import orjson

from libs.common.clock import Clock
from libs.common.errors import InvalidInput, NotFound, Unavailable
from libs.common.metrics import counter
from libs.common.outgoing import GuardedClient
from services.export.cards import answers
from services.export.cards.answers import Facts, NoAnswer
from services.export.cards.signing import sign, timestamp

logger = logging.getLogger(__name__)

REMEMBERED = 20_000
"""Answers kept in memory, at most."""
BATCH = 100
"""Cards in one batch question; the platform takes no more."""
MAX_ANSWER_BYTES = 4 << 20
CALLS = counter("export_card_calls_total", "Calls of the card platform", ("operation", "outcome"))

_STATE = "/openapi/v1/prodinst/queryCardMainStatus"
_PRODUCT = "/openapi/v1/prodinst/prodInstQuery"
_SESSION = "/openapi/v1/prodinst/getOnlineStatus"
_TRAFFIC = "/api/v1/openbill/queryTraffic"
_STATES = "/api/v1/prod/batchQrySimStatus"

Reader = Callable[[Mapping[str, Any]], Facts]

_CARD_PARTS: Mapping[str, Reader] = {
    _STATE: answers.read_state,
    _TRAFFIC: answers.read_traffic,
    _PRODUCT: answers.read_product,
}
_SESSION_PARTS: Mapping[str, Reader] = {
    _SESSION: answers.read_session,
    _PRODUCT: answers.read_product,
}


class CardPlatformUnavailable(Unavailable):
    """The card platform cannot be asked; nobody can tell how the card is."""

    code = "card_platform_unavailable"
    title_zh = "卡管理平台不可用"


class NoCardAccount(NotFound):
    """No card platform is configured, so no card is known to anybody."""

    code = "no_card_account"
    title_zh = "未配置卡管理平台"


@dataclass(frozen=True, slots=True)
class CardAnswer:
    """What the platform says of a card."""

    facts: Facts
    at: datetime
    """When it was asked; a remembered answer keeps its time."""
    missing: Sequence[str]
    """Interfaces that did not answer, though others did."""


class CardPort(Protocol):
    """A card platform of either generation."""

    async def card(self, number: str) -> CardAnswer:
        """Return state, arrears, usage and kind of a card."""

    async def session(self, number: str) -> CardAnswer:
        """Return the network session and the directed addresses of a card."""

    async def states(self, numbers: Sequence[str]) -> Mapping[str, str]:
        """Return the states of many cards; those that the platform does not name are absent."""


class CmpClient:
    """The new generation of the platform."""

    def __init__(
        self,
        *,
        url: str,
        app_key: str,
        secret: str,
        customer: str,
        arrears_path: str | None,
        http: GuardedClient,
        clock: Clock,
        timeout_s: float,
        remember_s: float,
        calls_per_minute: int,
    ) -> None:
        """Prepare.

        Args:
            url: Base of the gateway, ``https://host:port``.
            app_key: Of the account.
            secret: Of the account; never logged.
            customer: ``custNumber`` of batch questions.
            arrears_path: Where to ask what is owed; its place differs, and not every account may ask.
            http: Calls only what an operator allowed.
            clock: Ours; the platform wants GMT.
            timeout_s: For one call. [s]
            remember_s: An answer is not asked for again within this. [s]
            calls_per_minute: More are refused here; the platform has a quota.
        """
        self._url = url.rstrip("/")
        self._app_key = app_key
        self._secret = secret
        self._customer = customer
        self._card_parts = dict(_CARD_PARTS)
        if arrears_path is not None:
            self._card_parts[arrears_path] = answers.read_arrears
        self._http = http
        self._clock = clock
        self._timeout_s = timeout_s
        self._remember_s = remember_s
        self._calls_per_minute = calls_per_minute
        self._known: OrderedDict[tuple[str, str], tuple[float, CardAnswer]] = OrderedDict()
        self._asking: dict[tuple[str, str], asyncio.Lock] = {}
        self._called: list[float] = []

    async def card(self, number: str) -> CardAnswer:
        """Return state, arrears, usage and kind of a card.

        Raises:
            InvalidInput: No access number.
            CardPlatformUnavailable: Not one of the interfaces answered.
        """
        return await self._remembered("card", number, self._card_parts)

    async def session(self, number: str) -> CardAnswer:
        """Return the network session and the directed addresses of a card. Raises as ``card``."""
        return await self._remembered("session", number, _SESSION_PARTS)

    async def states(self, numbers: Sequence[str]) -> Mapping[str, str]:
        """Return the states of many cards; those that the platform does not name are absent.

        Raises:
            InvalidInput: One is no access number.
            CardPlatformUnavailable: A question was not answered.
        """
        found: dict[str, str] = {}
        for start in range(0, len(numbers), BATCH):
            batch = [checked(number) for number in numbers[start : start + BATCH]]
            body = {"accessNumbers": batch, "custNumber": self._customer, "groupId": "", "simStatus": ""}
            found.update(answers.read_states(await self._ask(_STATES, body=body)))
        return found

    async def _remembered(self, what: str, number: str, parts: Mapping[str, Reader]) -> CardAnswer:
        key = (what, checked(number))
        lock = self._asking.setdefault(key, asyncio.Lock())
        try:
            async with lock:  # two who ask at once get one answer
                known = self._known.get(key)
                if known is not None and self._clock.monotonic() - known[0] < self._remember_s:
                    return known[1]
                answer = await self._collect(number, parts)
                if not answer.missing:
                    self._known[key] = (self._clock.monotonic(), answer)
                    self._known.move_to_end(key)
                    while len(self._known) > REMEMBERED:
                        self._known.popitem(last=False)
                return answer
        finally:
            if not lock.locked():
                self._asking.pop(key, None)

    async def _collect(self, number: str, parts: Mapping[str, Reader]) -> CardAnswer:
        facts: dict[str, bool | float | str] = {}
        missing: list[str] = []
        failed: CardPlatformUnavailable | None = None
        for path, read in parts.items():
            try:
                facts.update(read(await self._ask(path, query={"access_number": number})))
            except CardPlatformUnavailable as exc:
                missing.append(path.rsplit("/", 1)[-1])
                failed = exc
        if failed is not None and len(missing) == len(parts):
            raise failed
        return CardAnswer(facts, self._clock.now(), tuple(missing))

    async def _ask(
        self, path: str, *, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any]:
        operation = path.rsplit("/", 1)[-1]
        self._spend(operation)
        text = "" if body is None else orjson.dumps(body).decode()
        stamp = timestamp(self._clock.now())
        headers = {
            "AppKey": self._app_key,
            "Timestamp": stamp,
            "Sign": sign(secret=self._secret, stamp=stamp, query=query or {}, body=text),
            "Content-Type": "application/json",
        }
        try:
            answer = await self._http.request(
                "GET" if body is None else "POST",
                self._url + path,
                headers=headers,
                params=query,
                content=text.encode() or None,
                timeout_s=self._timeout_s,
                max_bytes=MAX_ANSWER_BYTES,
            )
            if not answer.is_success:
                raise NoAnswer(f"HTTP {answer.status}")
            found = answers.check(answer.json())
        except Unavailable as exc:
            CALLS.labels(operation, "unavailable").inc()
            raise _away(operation, exc.message) from exc
        except (NoAnswer, orjson.JSONDecodeError) as exc:
            CALLS.labels(operation, "refused").inc()
            raise _away(operation, str(exc)) from exc
        CALLS.labels(operation, "answered").inc()
        return found

    def _spend(self, operation: str) -> None:
        now = self._clock.monotonic()
        self._called = [at for at in self._called if now - at < 60.0]
        if len(self._called) >= self._calls_per_minute:
            CALLS.labels(operation, "held_back").inc()
            raise _away(operation, f"{self._calls_per_minute} calls within a minute are enough")
        self._called.append(now)


class NoCardPlatform:
    """Stands in where no account is configured."""

    async def card(self, number: str) -> CardAnswer:
        """Raise ``NoCardAccount``."""
        raise _none()

    async def session(self, number: str) -> CardAnswer:
        """Raise ``NoCardAccount``."""
        raise _none()

    async def states(self, numbers: Sequence[str]) -> Mapping[str, str]:
        """Raise ``NoCardAccount``."""
        raise _none()


def checked(number: str) -> str:
    """Return an access number (10 to 15 digits).

    Raises:
        InvalidInput: It is none.
    """
    if not (number.isascii() and number.isdigit() and 10 <= len(number) <= 15):
        raise InvalidInput(
            f"access number: expected 10 to 15 digits, found {number[:40]!r}",
            message_zh=f"接入号码应为 10 至 15 位数字，实际为 {number[:40]!r}",
        )
    return number


def _away(operation: str, reason: str) -> CardPlatformUnavailable:
    return CardPlatformUnavailable(
        f"card platform, {operation}: {reason}", message_zh=f"卡管理平台 {operation}：{reason}"
    )


def _none() -> NoCardAccount:
    return NoCardAccount(
        "no card platform is configured (WATTRING_EXPORT__CARDS__URL)",
        message_zh="未配置卡管理平台（WATTRING_EXPORT__CARDS__URL）",
    )
