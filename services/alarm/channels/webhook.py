"""A JSON document to any URL, signed as Standard Webhooks says (github.com/standard-webhooks, spec 1.0.0)."""

import orjson

from libs.common import webhooks
from libs.common.clock import Clock
from libs.common.outgoing import GuardedClient
from services.alarm.channels.config import ChannelConfig, WebhookConfig
from services.alarm.channels.port import Credentials, NotDelivered, Outgoing

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 * 1024


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
        secret = credentials.get("secret")
        try:
            keys = [] if secret is None else [webhooks.key_of(secret)]
        except webhooks.WrongSecret as exc:
            raise NotDelivered(exc.message, message_zh=exc.message_zh) from None
        headers = {
            "content-type": "application/json",
            **webhooks.signed_headers(message.notification_id, self._clock.now(), body, keys),
        }
        answer = await self._client.request(
            "POST", config.url, headers=headers, content=body, timeout_s=TIMEOUT_S, max_bytes=MAX_ANSWER_BYTES
        )
        if not answer.is_success:
            raise NotDelivered(
                f"the receiver answered with status {answer.status}", message_zh=f"接收方返回状态码 {answer.status}"
            )
