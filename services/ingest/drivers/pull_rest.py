"""Rows of an HTTP API: signed, paged, within a window of time, and never led astray by a redirection."""

import base64
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlencode, urljoin

import orjson

from libs.common.clock import Clock
from libs.common.contracts.registry import Line
from libs.common.errors import InvalidInput
from libs.common.ids import new_id
from libs.common.outgoing import Answer, CallFailed, GuardedClient, NotAllowed, parse_url
from services.ingest.domain.pull import Mark, MarkKind, at_path, larger
from services.ingest.domain.pull_source import (
    Auth,
    AuthKind,
    PagingKind,
    RestSource,
    filled,
    filled_json,
    query_text,
)
from services.ingest.drivers.means import Means
from services.ingest.drivers.pull_port import Page, PullFailed

logger = logging.getLogger(__name__)

MAX_PAGES = 1_000
"""Of one window; more means that the window is too long or that the paging is not understood."""
TOKEN_MARGIN_S = 30.0
TOKEN_DEFAULT_S = 300.0
"""Of a token that does not say how long it lives. [s]"""
RETRY_AFTER_MAX_S = 3600.0
MAX_PAGE_BYTES = 8 << 20
"""A longer answer is a failure: parsing it would hold up everything else. [B]"""
_NEXT = re.compile(r'<([^>]+)>\s*;[^,]*\brel="?next"?')


class RestPull:
    """One HTTP API; implements ``PullSource``."""

    def __init__(self, line: Line, source: RestSource, clock: Clock, means: Means) -> None:
        """Prepare; nothing is called yet.

        Raises:
            InvalidInput: The line's endpoint is no URL.
        """
        self._base = parse_url(line.endpoint)
        self._line = line
        self._source = source
        self._clock = clock
        self._means = means
        self._client: GuardedClient | None = None
        self._token: tuple[str, float] | None = None

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def pages(self, mark: Mark | None) -> AsyncIterator[Page]:
        """Yield the items of one window of time."""
        source, paging, now = self._source, self._source.paging, self._clock.now()
        facts = {"size": str(paging.size), "page": str(paging.first), "offset": "0", "cursor": ""}
        until = now
        if source.mark is not None:
            begin = mark.value if mark is not None else now - source.mark.initial
            if not isinstance(begin, type(now)):
                raise PullFailed(f"{self._line.id}: the watermark kept is no time")
            until = min(now, begin + source.mark.longest)
            facts["since"] = source.mark.time.write(begin - source.mark.overlap)
            facts["until"] = source.mark.time.write(until)
        newest, before, link = mark, None, None
        for number in range(MAX_PAGES):
            answer = await self._ask(facts, link)
            items = self._items(answer)
            newest = larger(newest, self._newest(items))
            following = self._next(answer, items, facts, before)
            rows = [item if isinstance(item, Mapping) else {"item": item} for item in items]
            if following is None:
                behind = until < now
                yield Page(rows, True, self._reached(newest, until, behind=behind), behind)
                return
            yield Page(rows, False)
            before = items
            link = following if paging.kind is PagingKind.LINK else None
            facts |= {
                "page": str(paging.first + number + 1),
                "offset": str(int(facts["offset"]) + len(items)),
                "cursor": following if paging.kind is PagingKind.CURSOR else "",
            }
        raise PullFailed(
            f"more than {MAX_PAGES} pages: shorten watermark.longest_s, or look at paging",
            message_zh=f"超过 {MAX_PAGES} 页:请缩短 watermark.longest_s 或检查 paging",
        )

    def _reached(self, newest: Mark | None, until: Any, *, behind: bool) -> Mark | None:
        """Return how far the source has been read: to the end of a past window, else to the youngest item."""
        if self._source.mark is None:
            return None
        if behind:
            return Mark(MarkKind.TIME, until)
        # A clock that runs ahead there must not make us skip what comes in between.
        return newest if newest is None or newest.value <= until else Mark(MarkKind.TIME, until)

    def _newest(self, items: list[Any]) -> Mark | None:
        if self._source.mark is None:
            return None
        times = [time for item in items if isinstance(item, Mapping) and (time := self._source.mark.time.read(item))]
        return Mark(MarkKind.TIME, max(times)) if times else None

    def _items(self, answer: "_Parsed") -> list[Any]:
        found = at_path(answer.payload, self._source.items) if self._source.items else answer.payload
        if found is None:
            return []  # how some APIs say that there is nothing
        if not isinstance(found, list):
            where = self._source.items or "the answer"
            raise PullFailed(f"{where}: expected a list, found {type(found).__name__}")
        return found

    def _next(
        self, answer: "_Parsed", items: list[Any], facts: Mapping[str, str], before: list[Any] | None
    ) -> str | None:
        """Return what leads to the next page, None when this is the last."""
        paging = self._source.paging
        match paging.kind:
            case PagingKind.NONE:
                return None
            case PagingKind.PAGE | PagingKind.OFFSET:
                # The same page again is from a server that does not know the parameter: there is no other one.
                return None if len(items) < paging.size or items == before else "next"
            case PagingKind.CURSOR:
                cursor = at_path(answer.payload, paging.next_field or "")
                text = "" if cursor is None or cursor is False else str(cursor)
                return None if text in ("", facts["cursor"]) else text
            case PagingKind.LINK:
                match = _NEXT.search(answer.whole.headers.get("link", ""))
                return None if match is None else self._same_place(match[1])

    def _same_place(self, link: str) -> str:
        """Return the URL of a link, which must not lead to another server: our credentials go along."""
        url = urljoin(str(self._base), link)
        found = parse_url(url)
        if (found.scheme, found.host, found.port) != (self._base.scheme, self._base.host, self._base.port):
            raise PullFailed(f"the next page is on another server, {found.host}: not followed")
        return url

    async def _ask(self, facts: Mapping[str, str], link: str | None) -> "_Parsed":
        """Ask for one page."""
        answer = await self._request(facts, link)
        if answer.status == 401 and self._source.auth.kind is AuthKind.OAUTH2:
            self._token = None  # taken back before its time
            answer = await self._request(facts, link)
        if not answer.is_success:
            retry = answer.headers.get("retry-after", "")
            wait_s = min(float(retry), RETRY_AFTER_MAX_S) if retry.isdecimal() else None
            raise PullFailed(f"answered {answer.status}", message_zh=f"应答状态 {answer.status}", retry_after_s=wait_s)
        try:
            payload = answer.json()
        except orjson.JSONDecodeError as exc:
            raise PullFailed("the answer is no JSON", message_zh="应答不是 JSON") from exc
        source = self._source
        if source.ok_field is not None and str(at_path(payload, source.ok_field)) != source.ok_value:
            found = str(at_path(payload, source.ok_field))[:60]
            raise PullFailed(f"{source.ok_field}: expected {source.ok_value}, found {found}")
        return _Parsed(payload, answer)

    async def _request(self, facts: Mapping[str, str], link: str | None) -> Answer:
        source = self._source
        query = query_text({name: filled(text, facts) for name, text in source.query.items()})
        url = str(self._base).rstrip("/") + filled(source.path, facts) + (f"?{query}" if query else "")
        body = b"" if source.body is None else orjson.dumps(filled_json(source.body, facts))
        target = parse_url(link or url)
        headers = {"accept": "application/json", **source.headers}
        if body:
            headers["content-type"] = "application/json"
        headers |= await self._credentials(source.auth, target.path, target.query.decode(), body)
        return await self._call(source.method, str(target), headers, body)

    async def _credentials(self, auth: Auth, path: str, query: str, body: bytes) -> dict[str, str]:
        match auth.kind:
            case AuthKind.NONE:
                return {}
            case AuthKind.BASIC:
                pair = f"{self._secret('user')}:{self._secret('password')}"
                return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
            case AuthKind.BEARER:
                return {"authorization": f"Bearer {self._secret('token')}"}
            case AuthKind.OAUTH2:
                return {"authorization": f"Bearer {await self._access_token(auth)}"}
            case AuthKind.HEADER:
                return {auth.header or "": self._secret("key")}
            case AuthKind.HMAC:
                return self._signed(auth, path, query, body)

    def _signed(self, auth: Auth, path: str, query: str, body: bytes) -> dict[str, str]:
        signing = auth.signing
        if signing is None:
            raise InvalidInput("auth: hmac without text and headers")
        now = self._clock.now().timestamp()
        facts = {
            "method": self._source.method,
            "path": path,
            "query": query,
            "timestamp": str(int(now * 1000) if signing.timestamp_form == "ms" else int(now)),
            "nonce": new_id().replace("-", ""),
            "body": body.decode(),
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "key": self._secret("key"),
        }
        return signing.headers_for(self._secret("secret"), facts)

    async def _access_token(self, auth: Auth) -> str:
        now = self._clock.monotonic()
        if self._token is not None and now < self._token[1]:
            return self._token[0]
        form = {
            "grant_type": "client_credentials",
            "client_id": self._secret("client_id"),
            "client_secret": self._secret("client_secret"),
            **({} if auth.scope is None else {"scope": auth.scope}),
        }
        url = urljoin(str(self._base), auth.token_url or "")
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        answer = await self._call("POST", url, headers, urlencode(form).encode())
        try:
            found = answer.json() if answer.is_success else {}
        except orjson.JSONDecodeError:
            found = {}
        token = found.get("access_token") if isinstance(found, dict) else None
        if not isinstance(token, str) or not token:
            raise PullFailed(
                f"no token was given (status {answer.status})", message_zh=f"未取得令牌(状态 {answer.status})"
            )
        lives_s = found.get("expires_in")
        lives_s = float(lives_s) if isinstance(lives_s, int | float) else TOKEN_DEFAULT_S
        self._token = (token, now + max(lives_s - TOKEN_MARGIN_S, lives_s / 2))
        return token

    def _secret(self, name: str) -> str:
        if self._line.credentials_ref is None:
            raise InvalidInput(
                f"line {self._line.id}: credentials_ref: the source needs a secret",
                message_zh=f"线路 {self._line.id}:该数据源需要 credentials_ref",
            )
        secret = self._means.secrets.read(self._line.credentials_ref)
        secret.check_host(self._base.host)
        return secret.require(name)

    async def _call(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if self._client is None:
            self._client = GuardedClient(self._means.guard)
        try:
            return await self._client.request(
                method,
                url,
                headers=headers,
                content=body or None,
                timeout_s=self._source.timeout_s,
                max_bytes=MAX_PAGE_BYTES,
            )
        except (CallFailed, NotAllowed) as exc:
            raise PullFailed(exc.message, message_zh=exc.message_zh) from exc


class _Parsed:
    """An answer and its JSON."""

    def __init__(self, payload: Any, whole: Answer) -> None:
        self.payload = payload
        self.whole = whole
