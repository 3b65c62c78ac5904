"""Robots of groups in WeCom (企业微信), DingTalk (钉钉) and Feishu (飞书).

Their documents: developer.work.weixin.qq.com/document/path/91770, open.dingtalk.com (自定义机器人安全设置) and
open.feishu.cn/document/client-docs/bot-v3/add-custom-bot. All answer 200 also when they refuse: the code is in the
body.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping

import orjson

from libs.common.clock import Clock
from libs.common.contracts.base import JsonObject
from libs.common.outgoing import Answer, GuardedClient
from libs.common.redact import redact
from services.alarm.channels.config import ChannelConfig, DingtalkConfig, FeishuConfig, WecomConfig
from services.alarm.channels.port import Credentials, NotDelivered, Outgoing, shortened

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 * 1024
WECOM_TEXT_BYTES = 2048
"""Longest text of a WeCom robot. [B]"""
DINGTALK_TEXT_BYTES = 15_000
"""A DingTalk robot takes 20,000 bytes in all. [B]"""
FEISHU_TEXT_BYTES = 15_000
"""A Feishu robot takes 20 KB in all. [B]"""


class WecomChannel:
    """See ``port.Channel``."""

    def __init__(self, client: GuardedClient) -> None:
        """Keep the way out."""
        self._client = client

    async def send(self, config: ChannelConfig, credentials: Credentials, message: Outgoing) -> None:
        """Send a text."""
        assert isinstance(config, WecomConfig)  # noqa: S101  # chosen by its kind
        text: dict[str, object] = {"content": shortened(message.text, WECOM_TEXT_BYTES)}
        if config.mention_mobiles:
            text["mentioned_mobile_list"] = list(config.mention_mobiles)
        key = credentials.require("key")
        await _post(self._client, config.url, {"msgtype": "text", "text": text}, {"key": key}, "errcode", "errmsg")


class DingtalkChannel:
    """See ``port.Channel``."""

    def __init__(self, client: GuardedClient, clock: Clock) -> None:
        """Keep the way out."""
        self._client = client
        self._clock = clock

    async def send(self, config: ChannelConfig, credentials: Credentials, message: Outgoing) -> None:
        """Send a text, signed when the stored secret has a ``secret``."""
        assert isinstance(config, DingtalkConfig)  # noqa: S101  # chosen by its kind
        params = {"access_token": credentials.require("access_token")}
        secret = credentials.get("secret")
        if secret is not None:
            stamp = str(round(self._clock.now().timestamp() * 1000))
            params |= {"timestamp": stamp, "sign": dingtalk_signature(secret, stamp)}
        body = {
            "msgtype": "text",
            "text": {"content": shortened(message.text, DINGTALK_TEXT_BYTES)},
            "at": {"atMobiles": list(config.mention_mobiles), "isAtAll": False},
        }
        await _post(self._client, config.url, body, params, "errcode", "errmsg")


class FeishuChannel:
    """See ``port.Channel``."""

    def __init__(self, client: GuardedClient, clock: Clock) -> None:
        """Keep the way out."""
        self._client = client
        self._clock = clock

    async def send(self, config: ChannelConfig, credentials: Credentials, message: Outgoing) -> None:
        """Send a text, signed when the stored secret has a ``secret``."""
        assert isinstance(config, FeishuConfig)  # noqa: S101  # chosen by its kind
        body: dict[str, object] = {
            "msg_type": "text",
            "content": {"text": shortened(message.text, FEISHU_TEXT_BYTES)},
        }
        secret = credentials.get("secret")
        if secret is not None:
            stamp = str(int(self._clock.now().timestamp()))
            body |= {"timestamp": stamp, "sign": feishu_signature(secret, stamp)}
        url = f"{config.url.rstrip('/')}/{credentials.require('token')}"
        await _post(self._client, url, body, {}, "code", "msg")


def dingtalk_signature(secret: str, stamp: str) -> str:
    """Return ``sign``: HMAC-SHA256 with the secret over time in ms, a line feed and the secret; the URL encodes it."""
    digest = hmac.new(secret.encode(), f"{stamp}\n{secret}".encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def feishu_signature(secret: str, stamp: str) -> str:
    """Return ``sign``: HMAC-SHA256 of nothing, with time in s, a line feed and the secret as key."""
    digest = hmac.new(f"{stamp}\n{secret}".encode(), b"", hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


async def _post(
    client: GuardedClient, url: str, body: object, params: Mapping[str, str], code_name: str, text_name: str
) -> None:
    answer = await client.request(
        "POST",
        url,
        headers={"content-type": "application/json; charset=utf-8"},
        params=params,
        content=orjson.dumps(body),
        timeout_s=TIMEOUT_S,
        max_bytes=MAX_ANSWER_BYTES,
    )
    told = _parsed(answer)
    code = told.get(code_name)
    if not answer.is_success or code != 0:
        reason = redact(str(told.get(text_name) or "")[:300])
        raise NotDelivered(
            f"the robot refused: status {answer.status}, {code_name} {code}, {reason}",
            message_zh=f"机器人拒收：状态码 {answer.status}，{code_name} {code}，{reason}",
        )


def _parsed(answer: Answer) -> JsonObject:
    try:
        told = answer.json()
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}
