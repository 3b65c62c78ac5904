"""The running suite's API from the command line, as the service ``cli`` whose key lies in the data folder."""

import json
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from libs.common.client import NO_TLS
from libs.common.clock import SystemClock
from libs.common.errors import PlatformError, Unavailable
from libs.common.settings import CommonSettings
from libs.common.tokens import KeyRing
from libs.suite.folders import DataFolder

TIMEOUT_S = 30.0


class Refused(PlatformError):
    """The suite answered that it will not; the message is its own."""

    code = "refused"
    title_zh = "请求被拒绝"

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self.facts.get("status", 0))


class LocalApi:
    """A synchronous client of the gateway: over its socket in the data folder, else at host and port."""

    def __init__(self, settings: CommonSettings, *, timeout_s: float = TIMEOUT_S) -> None:
        """Open the keys; nothing is sent yet.

        Raises:
            MissingKey: No suite was ever started on this data folder.
        """
        self._keys = KeyRing.open(settings.effective_keys_dir, SystemClock())
        socket = DataFolder(settings.data_dir).socket("gateway")
        if socket.exists():
            transport = httpx.HTTPTransport(uds=str(socket), verify=NO_TLS)
            self._client = httpx.Client(transport=transport, base_url="http://localhost", timeout=timeout_s)
            self.address = str(socket)
        else:
            self.address = f"http://{settings.host}:{settings.port}"
            self._client = httpx.Client(base_url=self.address, timeout=timeout_s, trust_env=False)

    def get(self, path: str, **params: Any) -> Any:
        """Return the parsed answer of a GET below ``/api/v1``."""
        return self._call("GET", path, params={name: value for name, value in params.items() if value is not None})

    def fetch(self, path: str, **params: Any) -> bytes:
        """Return the body of a GET below ``/api/v1`` that is a file."""
        wanted = {name: value for name, value in params.items() if value is not None}
        return self._answer("GET", path, params=wanted).content

    def post(self, path: str, body: Any = None) -> Any:
        """Return the parsed answer of a POST of JSON below ``/api/v1``."""
        return self._call("POST", path, json=body)

    def put(self, path: str, body: Any) -> Any:
        """Return the parsed answer of a PUT of JSON below ``/api/v1``."""
        return self._call("PUT", path, json=body)

    def delete(self, path: str) -> Any:
        """Return the parsed answer of a DELETE below ``/api/v1``."""
        return self._call("DELETE", path)

    def upload(self, path: str, content: bytes, *, media_type: str, **params: Any) -> Any:
        """Return the parsed answer of a POST of a file's content."""
        return self._call("POST", path, content=content, headers={"content-type": media_type}, params=params)

    def lines(self, path: str, **params: Any) -> Iterator[Any]:
        """Yield the JSON lines of a GET below ``/api/v1`` as they come; empty ones are passed over."""
        token = self._keys.sign_token("cli", audience="gateway", scopes=["*:*"])
        wanted = {name: value for name, value in params.items() if value is not None}
        try:
            with self._client.stream(
                "GET", f"/api/v1/{path}", params=wanted, headers={"authorization": f"Bearer {token}"}
            ) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _refusal(answer)
                yield from (json.loads(line) for line in answer.iter_lines() if line)
        except httpx.HTTPError as exc:
            raise self._not_there(exc) from exc

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        answer = self._answer(method, path, **arguments)
        return answer.json() if answer.content else None

    def _answer(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **arguments: Any
    ) -> httpx.Response:
        token = self._keys.sign_token("cli", audience="gateway", scopes=["*:*"])
        try:
            answer = self._client.request(
                method, f"/api/v1/{path}", headers={"authorization": f"Bearer {token}", **(headers or {})}, **arguments
            )
        except httpx.HTTPError as exc:
            raise self._not_there(exc) from exc
        if answer.is_success:
            return answer
        raise _refusal(answer)

    def _not_there(self, exc: httpx.HTTPError) -> Unavailable:
        return Unavailable(
            f"no Wattring answers at {self.address} ({exc or type(exc).__name__}); is it running?",
            message_zh=f"{self.address} 没有应答({exc or type(exc).__name__});Wattring 是否已启动?",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


def _refusal(answer: httpx.Response) -> PlatformError:
    try:
        detail = answer.json()
    except json.JSONDecodeError:
        detail = {}
    text = str(detail.get("detail") or f"{answer.request.url.path} answered {answer.status_code}")
    if answer.status_code in (502, 503, 504):
        return Unavailable(text, message_zh=detail.get("detail_zh"))
    facts = detail.get("facts", {}) if isinstance(detail.get("facts"), dict) else {}
    return Refused(text, message_zh=detail.get("detail_zh"), **{**facts, "status": answer.status_code})
