"""Short messages by the HTTP gateway of any provider: where what stands in the request is said by a template."""

import re
from collections.abc import Mapping
from urllib.parse import urlencode

import orjson

from libs.common.outgoing import Answer, GuardedClient
from libs.common.redact import redact
from services.alarm.channels.config import ChannelConfig, SmsConfig, SmsSuccess
from services.alarm.channels.port import Credentials, NotDelivered, Outgoing

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 * 1024
PLACE = re.compile(r"\{(text|phones|id|secret\.[A-Za-z0-9_-]{1,64})\}")


class SmsChannel:
    """See ``port.Channel``."""

    def __init__(self, client: GuardedClient) -> None:
        """Keep the way out."""
        self._client = client

    async def send(self, config: ChannelConfig, credentials: Credentials, message: Outgoing) -> None:
        """Send one request for all telephones."""
        assert isinstance(config, SmsConfig)  # noqa: S101  # chosen by its kind
        text = message.text if len(message.text) <= config.max_chars else message.text[: config.max_chars - 1] + "…"
        values = {"text": text, "phones": config.separator.join(config.phones), "id": message.notification_id}
        headers = {name: str(_filled(value, values, credentials)) for name, value in config.headers.items()}
        body = _filled(config.body, values, credentials)
        assert isinstance(body, dict)  # noqa: S101  # as the template is
        content, params = None, None
        if config.encoding == "json":
            content, headers["content-type"] = orjson.dumps(body), "application/json; charset=utf-8"
        elif config.encoding == "form":
            content, headers["content-type"] = urlencode(_flat(body)).encode(), "application/x-www-form-urlencoded"
        else:
            params = _flat(body)
        answer = await self._client.request(
            config.method,
            config.url,
            headers=headers,
            params=params,
            content=content,
            timeout_s=TIMEOUT_S,
            max_bytes=MAX_ANSWER_BYTES,
        )
        if not answer.is_success or (config.success is not None and not _says(answer, config.success)):
            told = redact(answer.body[:300].decode(errors="replace"))
            raise NotDelivered(
                f"the gateway refused: status {answer.status}, {told}",
                message_zh=f"短信网关拒收：状态码 {answer.status}，{told}",
            )


def _filled(template: object, values: Mapping[str, str], credentials: Credentials) -> object:
    """Return a template with its places filled; what is filled in is text, whatever it looks like."""
    if isinstance(template, str):
        return PLACE.sub(
            lambda place: (
                credentials.require(place[1].removeprefix("secret."))
                if place[1].startswith("secret.")
                else values[place[1]]
            ),
            template,
        )
    if isinstance(template, Mapping):
        return {name: _filled(part, values, credentials) for name, part in template.items()}
    if isinstance(template, list | tuple):
        return [_filled(part, values, credentials) for part in template]
    return template


def _flat(body: Mapping[str, object]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in body.items()}


def _says(answer: Answer, success: SmsSuccess) -> bool:
    try:
        found = answer.json()
    except orjson.JSONDecodeError:
        return False
    for name in success.field.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found is not None and str(found) in success.values
