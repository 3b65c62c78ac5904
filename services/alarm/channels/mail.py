"""Mail by SMTP (RFC 5321) to a server that the guard lets through."""

import asyncio
import socket
import ssl
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime

import aiosmtplib

from libs.common.outgoing import AddressGuard, CallFailed
from services.alarm.channels.config import ChannelConfig, SmtpConfig
from services.alarm.channels.port import Credentials, NotDelivered, Outgoing

TIMEOUT_S = 20.0
"""For a whole delivery: greeting, TLS, login and message. [s]"""
TITLE_CHARS = 200


class MailChannel:
    """See ``port.Channel``."""

    def __init__(self, guard: AddressGuard, *, context: ssl.SSLContext | None = None) -> None:
        """Keep the way out.

        Args:
            guard: Knows which servers may be called.
            context: How certificates are checked; None: by the authorities of this machine.
        """
        self._guard = guard
        self._context = context

    async def send(self, config: ChannelConfig, credentials: Credentials, message: Outgoing) -> None:
        """Send one mail to all receivers; one that the server refuses is a failure."""
        assert isinstance(config, SmtpConfig)  # noqa: S101  # chosen by its kind
        user, password = credentials.get("user"), credentials.get("password")
        if user is not None and config.tls == "none":
            raise NotDelivered(
                "a password is not sent without TLS: expected tls starttls or tls",
                message_zh="无 TLS 时不发送密码：tls 应为 starttls 或 tls",
            )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._deliver(config, user, password, mail_of(config, message))
        except aiosmtplib.SMTPResponseException as exc:
            told = f"{exc.code} {exc.message}"[:300]
            raise NotDelivered(f"the mail server refused: {told}", message_zh=f"邮件服务器拒绝：{told}") from exc
        except aiosmtplib.SMTPRecipientsRefused as exc:
            told = "; ".join(f"{one.recipient}: {one.code} {one.message}" for one in exc.recipients)[:300]
            raise NotDelivered(f"receivers were refused: {told}", message_zh=f"收件人被拒：{told}") from exc
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as exc:
            reason = str(exc) or f"no answer within {TIMEOUT_S:g} s"
            raise CallFailed(
                f"{config.host}:{config.port}: {reason}", message_zh=f"{config.host}:{config.port}：{reason}"
            ) from exc

    async def _deliver(self, config: SmtpConfig, user: str | None, password: str | None, mail: EmailMessage) -> None:
        address = await self._guard.address_of(config.host, config.port)
        connection = await _connected(address, config.port)
        context = None if config.tls == "none" else self._context or ssl.create_default_context()
        client = aiosmtplib.SMTP(
            hostname=config.host,
            sock=connection,
            timeout=TIMEOUT_S,
            use_tls=config.tls == "tls",
            start_tls=config.tls == "starttls",
            tls_context=context,
        )
        try:
            async with client:
                if user is not None:
                    await client.login(user, password or "")
                refused, _ = await client.send_message(mail)
        finally:
            connection.close()
        if refused:
            told = "; ".join(f"{who}: {said.code} {said.message}" for who, said in refused.items())[:300]
            raise NotDelivered(f"receivers were refused: {told}", message_zh=f"收件人被拒：{told}")


async def _connected(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (address, port))
    except BaseException:
        connection.close()
        raise
    return connection


def mail_of(config: SmtpConfig, message: Outgoing) -> EmailMessage:
    """Return the mail; its Message-ID is made of the message's id, so that a repetition can be told."""
    mail = EmailMessage()
    mail["Subject"] = " ".join(message.title.split())[:TITLE_CHARS]
    mail["From"] = Address(addr_spec=config.sender)
    mail["To"] = [Address(addr_spec=one) for one in config.to]
    mail["Date"] = format_datetime(message.created_at)
    mail["Message-ID"] = f"<{message.notification_id}@{config.sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(message.text)
    return mail
