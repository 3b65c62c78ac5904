"""A JSON document to any URL, signed as Standard Webhooks says (github.com/standard-webhooks, spec 1.0.0)."""

import base64
import binascii
import hashlib
import hmac

import orjson

from libs.common.clock import Clock
from libs.common.outgoing import GuardedClient
from services.alarm.channels.config import ChannelConfig, WebhookConfig
from services.alarm.channels.port import Credentials, NotDelivered, Outgoing

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 * 1024
PREFIX = "whsec_"


class WebhookChannel:
    """See ``port.Channel``."""

    def __init__(self, client: GuardedClient, clock: Clock) -> None:
        """Keep the way out."""
        self._client = client
        self._clock = clock

    async def send(self, config: ChannelConfig, credentials: Credentials, message: Outgoing) -> None:
        """Send; any 2xx is taken for success."""
        assert isinstance(config, WebhookConfig)  # noqa: S101  # chosen by its kind
        body = orjson.dumps(
            {
                "notification_id": message.notification_id,
                "kind": message.kind,
                "created_at": message.created_at.isoformat(),
                "title": message.title,
                "text": message.text,
                "alarm_count": message.alarm_count,
                "alarms": list(message.alarms),
            }
        )
        stamp = str(int(self._clock.now().timestamp()))
        headers = {
            "content-type": "application/json",
            "webhook-id": message.notification_id,
            "webhook-timestamp": stamp,
        }
        secret = credentials.get("secret")
        if secret is not None:
            headers["webhook-signature"] = signature(secret, message.notification_id, stamp, body)
        answer = await self._client.request(
            "POST", config.url, headers=headers, content=body, timeout_s=TIMEOUT_S, max_bytes=MAX_ANSWER_BYTES
        )
        if not answer.is_success:
            raise NotDelivered(
                f"the receiver answered with status {answer.status}", message_zh=f"接收方返回状态码 {answer.status}"
            )


def signature(secret: str, message_id: str, stamp: str, body: bytes) -> str:
    """Return the header ``webhook-signature``: HMAC-SHA256 over id, time and body.

    Raises:
        NotDelivered: The secret has the prefix of one in Base64, and is none.
    """
    key = secret.encode()
    if secret.startswith(PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise NotDelivered(
                f"the stored secret begins with {PREFIX}, and Base64 is expected behind it",
                message_zh=f"密钥以 {PREFIX} 开头，其后应为 Base64",
            ) from None
    digest = hmac.new(key, f"{message_id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
