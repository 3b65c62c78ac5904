"""Every channel against a real server: what goes out, how it is signed, and what a refusal becomes."""

import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword

from libs.common.errors import PlatformError
from libs.common.outgoing import AddressGuard, GuardedClient, NotAllowed
from libs.common.testing.clock import FakeClock
from services.alarm.channels.config import CONFIG
from services.alarm.channels.mail import MailChannel
from services.alarm.channels.port import Channel, Credentials, NotDelivered, Outgoing, shortened
from services.alarm.channels.robots import DingtalkChannel, FeishuChannel, WecomChannel
from services.alarm.channels.sms import SmsChannel
from services.alarm.channels.webhook import WebhookChannel
from tests.peers.certificates import Authority
from tests.peers.receivers import HttpReceiver, http_receiver, mail_receiver

pytestmark = pytest.mark.integration

AT = datetime(2026, 3, 1, 4, tzinfo=UTC)
"""What a fake clock shows at first: 1772337600 s."""
MESSAGE = Outgoing(
    "n-1", "news", AT, "【告警】1 级 1 条", "【告警】1 级 1 条\n停电告警 " + "站" * 3000, "zh", [{"a": 1}], 1
)
SECRET = "SEC-123"


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as found:
        yield found


async def sent(kind: str, receiver: HttpReceiver, secret: dict[str, str], **config: object) -> None:
    clock = FakeClock()
    async with GuardedClient(AddressGuard(["127.0.0.1"]), verify=False) as client:
        channels: dict[str, Channel] = {
            "webhook": WebhookChannel(client, clock),
            "wecom": WecomChannel(client),
            "dingtalk": DingtalkChannel(client, clock),
            "feishu": FeishuChannel(client, clock),
            "sms": SmsChannel(client),
        }
        url = f"{receiver.url}/{kind}"
        wanted = CONFIG.validate_python({"kind": kind, "url": url, **config})
        await channels[kind].send(wanted, Credentials("secret s", secret), MESSAGE)


class TestWebhook:
    @pytest.mark.parametrize("key", [b"plain secret", b"\x00\x01binary\xff"], ids=["text", "Standard Webhooks' own"])
    async def test_the_signature_is_that_of_standard_webhooks(self, receiver: HttpReceiver, key: bytes) -> None:
        secret = key.decode() if key.isascii() else f"whsec_{base64.b64encode(key).decode()}"
        await sent("webhook", receiver, {"secret": secret})
        (call,) = receiver.calls
        body = json.loads(call.body)
        assert (body["notification_id"], body["kind"], body["alarms"]) == ("n-1", "news", [{"a": 1}])
        assert (call.headers["webhook-id"], call.headers["webhook-timestamp"]) == ("n-1", "1772337600")
        digest = hmac.new(key, b"n-1.1772337600." + call.body, hashlib.sha256).digest()
        assert call.headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()

    async def test_any_other_status_is_a_refusal_and_inside_is_not_called(self, receiver: HttpReceiver) -> None:
        receiver.status = 302
        with pytest.raises(NotDelivered, match="302"):
            await sent("webhook", receiver, {})
        async with GuardedClient(AddressGuard([])) as client:
            config = CONFIG.validate_python({"kind": "webhook", "url": receiver.url})
            with pytest.raises(NotAllowed):
                await WebhookChannel(client, FakeClock()).send(config, Credentials(""), MESSAGE)
        assert len(receiver.calls) == 1


class TestRobots:
    async def test_wecom_gets_a_text_within_its_2048_bytes_and_the_key_in_the_query(
        self, receiver: HttpReceiver
    ) -> None:
        receiver.answer = b'{"errcode":0,"errmsg":"ok"}'
        await sent("wecom", receiver, {"key": "k-1"}, mention_mobiles=["13800001111"])
        (call,) = receiver.calls
        assert urlsplit(call.path).query == "key=k-1"
        body = json.loads(call.body)
        assert body["msgtype"] == "text"
        assert len(body["text"]["content"].encode()) <= 2048
        assert body["text"]["content"].endswith("站…")
        assert body["text"]["mentioned_mobile_list"] == ["13800001111"]

    async def test_dingtalk_is_signed_with_time_in_milliseconds(self, receiver: HttpReceiver) -> None:
        receiver.answer = b'{"errcode":0,"errmsg":"ok"}'
        await sent("dingtalk", receiver, {"access_token": "t-1", "secret": SECRET})
        query = parse_qs(urlsplit(receiver.calls[0].path).query)
        digest = hmac.new(SECRET.encode(), f"1772337600000\n{SECRET}".encode(), hashlib.sha256).digest()
        assert query == {
            "access_token": ["t-1"],
            "timestamp": ["1772337600000"],
            "sign": [base64.b64encode(digest).decode()],
        }
        assert json.loads(receiver.calls[0].body)["text"]["content"].startswith("【告警】")

    async def test_feishu_is_signed_in_the_body_with_time_in_seconds(self, receiver: HttpReceiver) -> None:
        receiver.answer = b'{"code":0,"msg":"success","data":{}}'
        await sent("feishu", receiver, {"token": "t-1", "secret": SECRET})
        (call,) = receiver.calls
        assert call.path == "/feishu/t-1"
        body = json.loads(call.body)
        digest = hmac.new(f"1772337600\n{SECRET}".encode(), b"", hashlib.sha256).digest()
        assert (body["timestamp"], body["sign"]) == ("1772337600", base64.b64encode(digest).decode())
        assert body["msg_type"] == "text"

    @pytest.mark.parametrize(
        ("kind", "answer"),
        [
            ("wecom", b'{"errcode":45009,"errmsg":"api freq out of limit"}'),
            ("dingtalk", b'{"errcode":310000,"errmsg":"sign not match"}'),
            ("feishu", b'{"code":19021,"msg":"sign match fail"}'),
            ("feishu", b"<html>"),
            ("wecom", b"[]"),
        ],
    )
    async def test_a_refusal_comes_with_status_200_and_a_code(
        self, receiver: HttpReceiver, kind: str, answer: bytes
    ) -> None:
        receiver.answer = answer
        with pytest.raises(NotDelivered) as refused:
            await sent(kind, receiver, {"key": "k", "access_token": "t", "token": "t"})
        told = json.loads(answer) if answer.startswith(b"{") else {}
        assert str(told.get("errmsg", told.get("msg", ""))) in refused.value.message
        assert refused.value.message_zh is not None

    async def test_a_secret_without_its_token_is_named_not_shown(self, receiver: HttpReceiver) -> None:
        with pytest.raises(NotDelivered, match="secret s: expected a line key="):
            await sent("wecom", receiver, {"other": "hush"})
        assert receiver.calls == []


class TestSms:
    async def test_a_template_is_filled_and_success_is_what_the_answer_must_say(self, receiver: HttpReceiver) -> None:
        receiver.answer = b'{"result":{"code":"0"}}'
        config = {
            "headers": {"X-Key": "{secret.key}"},
            "body": {"to": "{phones}", "msg": {"content": "{text}"}, "seq": "{id}", "{text}": 1},
            "phones": ["13800001111", "13800002222"],
            "max_chars": 40,
            "success": {"field": "result.code", "values": ["0"]},
        }
        await sent("sms", receiver, {"key": "k-1"}, **config)
        (call,) = receiver.calls
        body = json.loads(call.body)
        assert call.headers["x-key"] == "k-1"
        assert body["to"] == "13800001111,13800002222"
        assert len(body["msg"]["content"]) == 40
        assert body["seq"] == "n-1"
        receiver.answer = b'{"result":{"code":"107"}}'
        with pytest.raises(NotDelivered, match="107"):
            await sent("sms", receiver, {"key": "k-1"}, **config)

    @pytest.mark.parametrize("encoding", ["form", "query"])
    async def test_forms_and_queries_are_encoded(self, receiver: HttpReceiver, encoding: str) -> None:
        config = {"encoding": encoding, "body": {"text": "{text} & more", "n": 1}, "phones": ["13800001111"]}
        await sent("sms", receiver, {}, max_chars=20, **config)
        (call,) = receiver.calls
        raw = call.body.decode() if encoding == "form" else urlsplit(call.path).query
        assert parse_qs(raw) == {"text": [MESSAGE.text[:19] + "… & more"], "n": ["1"]}


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class TestMail:
    @pytest.fixture
    def served(self, authority: Authority, tmp_path: Path) -> ssl.SSLContext:
        certificate, key = authority.issue("mail.test")
        (tmp_path / "cert.pem").write_bytes(certificate + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem")
        return context

    @staticmethod
    async def sent(port: int, trust: Authority | None, secret: dict[str, str], **config: object) -> None:
        context = ssl.create_default_context(cadata=None if trust is None else trust.pem.decode())
        channel = MailChannel(AddressGuard(["127.0.0.1"]), context=context)
        wanted = CONFIG.validate_python(
            {"kind": "smtp", "host": "127.0.0.1", "port": port, "sender": "wattring@example.com", **config}
        )
        await channel.send(wanted, Credentials("secret s", secret), MESSAGE)

    async def test_a_mail_has_both_receivers_and_an_id_that_stays(self) -> None:
        async with mail_receiver() as box:
            await self.sent(box.port, None, {}, tls="none", to=["a@example.com", "b@example.com"])
        (mail,) = box.mails
        assert mail.rcpt_tos == ["a@example.com", "b@example.com"]
        assert b"Message-ID: <n-1@example.com>" in mail.content
        assert "站" * 3 in mail.content.decode() or b"base64" in mail.content

    @pytest.mark.parametrize("tls", ["starttls", "tls"])
    async def test_with_tls_it_logs_in(self, authority: Authority, served: ssl.SSLContext, tls: str) -> None:
        seen: list[tuple[str, str]] = []

        def check(server: object, session: object, envelope: object, mechanism: str, data: object) -> AuthResult:
            assert isinstance(data, LoginPassword)
            seen.append((data.login.decode(), data.password.decode()))
            return AuthResult(success=data.password == b"right", handled=False)

        options: dict[str, Any] = {"tls_context": served} if tls == "starttls" else {"context": served}
        options |= {"authenticator": check, "auth_required": True, "auth_require_tls": tls == "starttls"}
        async with mail_receiver(**options) as box:
            await self.sent(box.port, authority, {"user": "u", "password": "right"}, tls=tls, to=["a@example.com"])
            with pytest.raises(NotDelivered, match="535"):
                await self.sent(box.port, authority, {"user": "u", "password": "bad"}, tls=tls, to=["a@example.com"])
        assert len(box.mails) == 1
        assert seen[0] == ("u", "right")
        assert set(seen[1:]) == {("u", "bad")}  # by each mechanism that the server offers

    async def test_a_certificate_of_somebody_else_is_refused(self, served: ssl.SSLContext) -> None:
        async with mail_receiver(tls_context=served) as box:
            with pytest.raises(PlatformError, match="CERTIFICATE_VERIFY_FAILED"):
                await self.sent(box.port, None, {}, to=["a@example.com"])
        assert box.mails == []

    async def test_a_password_is_not_sent_in_the_clear(self) -> None:
        async with mail_receiver() as box:
            with pytest.raises(NotDelivered, match="without TLS"):
                await self.sent(box.port, None, {"user": "u", "password": "p"}, tls="none", to=["a@example.com"])

    async def test_one_refused_receiver_is_a_failure_that_names_it(self) -> None:
        async with mail_receiver() as box:
            box.refuse["b@example.com"] = "550 no such user"
            with pytest.raises(NotDelivered, match=r"b@example\.com: 550 no such user"):
                await self.sent(box.port, None, {}, tls="none", to=["a@example.com", "b@example.com"])

    async def test_nobody_there_is_a_failure(self) -> None:
        async with mail_receiver() as box:
            port = box.port
        with pytest.raises(PlatformError, match=f"127.0.0.1:{port}"):
            await self.sent(port, None, {}, tls="none", to=["a@example.com"])


def test_a_text_is_cut_between_characters() -> None:
    assert shortened("站站站", 9) == "站站站"
    assert shortened("站站站", 8) == "站…"
    assert len(shortened("a" + "站" * 100, 50).encode()) <= 50
