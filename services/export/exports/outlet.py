"""Brings the files of a run to where they are to go; whoever sees the manifest there sees all the others whole.

FTP and SFTP take a file under another name and rename it; an S3-compatible store shows an object only when all of it
is there, large ones are put in parts. Only addresses are called that lie outside or that an operator has allowed.
"""

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from libs.common.errors import PlatformError
from libs.common.outgoing import AddressGuard
from services.export.domain.exports import FOLDER, Destination, DestinationKind
from services.export.files.push import PORTS, PushFailed, PushTarget, push_all, trust_problem

PART_BYTES = 8 << 20
"""Of an object that is put in parts; the least that S3 takes is 5 MiB, and it takes 10,000 of them. [B]"""
PARTS_AT_ONCE = 2
S3_PORTS = {"http": 80, "https": 443}


def destination_problem(one: Destination, account: Mapping[str, str]) -> str | None:
    """Return what is wrong with a destination, None when it can be used."""
    try:
        parts = urlsplit(one.url)
        port = parts.port
    except ValueError:
        return "url: it cannot be read"
    if one.kind is not DestinationKind.S3:
        if one.bucket is not None or one.prefix:
            return "bucket, prefix: of S3 only"
        if parts.scheme != one.kind.value:
            return f"url: expected {one.kind}://host:port/folder"
        return _target(one, account).problem()
    if one.trust is not None and trust_problem(one.trust) is not None:
        return trust_problem(one.trust)
    if parts.scheme not in S3_PORTS or not parts.hostname or port == 0 or parts.username is not None:
        return "url: expected the endpoint, https://host:port without an account"
    if parts.path.strip("/") or parts.query or parts.fragment:
        return "url: expected the endpoint without a path; the bucket is told apart"
    if not one.bucket:
        return "bucket: needed for S3"
    if not FOLDER.fullmatch(one.prefix.strip("/")):
        return "prefix: expected up to eight plain names joined by /"
    return None


class FileOutlet:
    """The way out for files."""

    def __init__(self, guard: AddressGuard) -> None:
        """Keep who says what may be called."""
        self._guard = guard

    async def bring(self, one: Destination, account: Mapping[str, str], folder: str, files: Sequence[Path]) -> None:
        """Put files in their order, each whole or not at all; those that are there are replaced.

        Raises:
            PushFailed: One was not taken, or its address may not be called; those before it are there.
        """
        try:
            parts = urlsplit(one.url)
            host = parts.hostname or ""
            port = parts.port or {**PORTS, **S3_PORTS}[parts.scheme]
            address = await self._guard.address_of(host, port)
        except PlatformError as exc:
            raise PushFailed(exc.message[:500], message_zh=(exc.message_zh or exc.message)[:500]) from exc
        if one.kind is DestinationKind.S3:
            await _put_objects(one, account, folder, files, address)
            return
        await push_all(_target(one, account), folder, [(file.name, file) for file in files], address=address)


def _target(one: Destination, account: Mapping[str, str]) -> PushTarget:
    target = PushTarget(url=one.url, host_key=one.host_key, trust=one.trust, timeout_s=one.timeout_s)
    return target.with_account(account)


async def _put_objects(
    one: Destination, account: Mapping[str, str], folder: str, files: Sequence[Path], address: str
) -> None:
    # Memory that a process without S3 need not spend.
    from obstore import put_async
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    timeout = timedelta(seconds=one.timeout_s)
    insecure = one.url.startswith("http://")
    try:
        store = S3Store(
            one.bucket or "",
            prefix="/".join(part for part in (one.prefix.strip("/"), folder) if part) or None,
            endpoint=_checked_endpoint(one.url, address) if insecure else one.url,
            region=one.region,
            access_key_id=account.get("username", ""),
            secret_access_key=account.get("password", ""),
            virtual_hosted_style_request=False,
            client_options={
                "allow_http": insecure,
                "timeout": timeout,
                "connect_timeout": timedelta(seconds=10),
                **({} if one.trust is None else {"root_certificate": one.trust}),
            },
            # Tries of a request within one of ours: a store that slows down for a moment need not get all parts again.
            retry_config={"max_retries": 2, "retry_timeout": timeout},
        )
        for file in files:
            async with asyncio.timeout(one.timeout_s):
                await put_async(store, file.name, file, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
    except TimeoutError as exc:
        raise _failed(f"no end within {one.timeout_s:g} s") from exc
    except (BaseError, OSError, ValueError) as exc:
        raise _failed(" ".join(str(exc).split()) or type(exc).__name__) from exc


def _checked_endpoint(url: str, address: str) -> str:
    """Return an endpoint without TLS by the address that was checked: a name may mean something else a moment later.

    With TLS the name stays: whatever it means then has to show the name's certificate.
    """
    parts = urlsplit(url)
    shown = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    return f"{parts.scheme}://{shown}:{parts.port or S3_PORTS[parts.scheme]}"


def _failed(reason: str) -> PushFailed:
    return PushFailed(f"the file was not taken: {reason}"[:500], message_zh=f"文件未被接收:{reason}"[:500])
