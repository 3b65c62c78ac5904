"""Who speaks: Ed25519 keys, short signed tokens between services, signatures on commands.

Every service holds its own private key and the public keys of the others. A token is a JWT (RFC 8037,
EdDSA) that lives for a minute and names its audience. A command's signature is over the canonical JSON
of its fields, so that the holder of the line can check what it is about to do.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import jwt
import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from libs.common.clock import Clock
from libs.common.errors import PlatformError, Unauthenticated

ISSUERS = ("ingest", "alarm", "control", "carbon", "export", "gateway", "watchdog", "cli")
TOKEN_TTL_S = 60.0
"""Life of a token: long enough for one slow call, short enough to be worthless when leaked. [s]"""
LEEWAY_S = 30.0
"""Clocks of two machines may differ by this much. [s]"""


class InvalidToken(Unauthenticated):
    """The token is missing, expired, for somebody else, or not signed by a key we know."""

    code = "invalid_token"
    title_zh = "令牌无效"


class MissingKey(PlatformError):
    """A key that this process needs is not there."""

    code = "missing_key"
    title_zh = "缺少密钥"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as the gateway or a service vouches for."""

    subject: str
    """User name, API key id or service name."""
    kind: Literal["user", "key", "service"]
    scopes: frozenset[str]
    """``<service>:<read|write|switch|admin>``; ``*`` in either place matches all."""
    sites: tuple[str, ...] | None = None
    """Sites (or regions, as ``region:<id>``) that the subject is limited to; None is all."""

    @property
    def actor(self) -> str:
        """The principal as the audit log names it: ``user:<name>``, ``key:<id>`` or ``service:<name>``."""
        return f"{self.kind}:{self.subject}"

    def may(self, scope: str) -> bool:
        """Return whether the scope is held."""
        service, _, right = scope.partition(":")
        return any(held in self.scopes for held in (scope, f"{service}:*", f"*:{right}", "*:*"))


def canonical(payload: Mapping[str, Any]) -> bytes:
    """Return the bytes that are signed: compact UTF-8 JSON with sorted keys, times in RFC 3339 UTC."""
    return orjson.dumps(payload, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)


class KeyRing:
    """The keys this process may use: its own private ones and everybody's public ones."""

    def __init__(
        self, private: Mapping[str, Ed25519PrivateKey], public: Mapping[str, Ed25519PublicKey], clock: Clock
    ) -> None:
        self._private = dict(private)
        self._public = dict(public)
        self._clock = clock

    @classmethod
    def open(cls, folder: Path, clock: Clock) -> "KeyRing":
        """Load ``<name>.key`` (private, PEM) and ``<name>.pub`` (public, PEM) from a folder.

        Raises:
            MissingKey: The folder holds no key, or a file that is not an Ed25519 key.
        """
        private: dict[str, Ed25519PrivateKey] = {}
        public: dict[str, Ed25519PublicKey] = {}
        for name in ISSUERS:
            own, known = folder / f"{name}.key", folder / f"{name}.pub"
            if own.exists() and os.access(own, os.R_OK):
                key = serialization.load_pem_private_key(own.read_bytes(), password=None)
                if not isinstance(key, Ed25519PrivateKey):
                    raise MissingKey(f"{own}: not an Ed25519 private key")
                private[name] = key
                public[name] = key.public_key()
            if known.exists():
                pub = serialization.load_pem_public_key(known.read_bytes())
                if not isinstance(pub, Ed25519PublicKey):
                    raise MissingKey(f"{known}: not an Ed25519 public key")
                public[name] = pub
        if not public:
            raise MissingKey(
                f"{folder}: no keys; create them once with `wattring keys {folder}`",
                message_zh=f"{folder}:没有密钥;请先运行 `wattring keys {folder}` 生成",
            )
        return cls(private, public, clock)

    @staticmethod
    def create(folder: Path, names: Sequence[str] = ISSUERS) -> None:
        """Create the keys that are missing: private files mode 0600, in a folder mode 0700."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in names:
            path = folder / f"{name}.key"
            if path.exists():
                continue
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(pem)
            (folder / f"{name}.pub").write_bytes(
                key.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )

    def sign_token(
        self,
        issuer: str,
        *,
        audience: str,
        subject: str | None = None,
        kind: Literal["user", "key", "service"] = "service",
        scopes: Sequence[str] = (),
        sites: Sequence[str] | None = None,
    ) -> str:
        """Return a token by ``issuer`` for ``audience``, on behalf of ``subject`` (default: the issuer itself)."""
        now = self._clock.now()
        claims: dict[str, Any] = {
            "iss": issuer, "aud": audience, "sub": subject or issuer, "kind": kind, "scopes": sorted(scopes),
            "iat": now, "exp": now + timedelta(seconds=TOKEN_TTL_S),
        }  # fmt: skip
        if sites is not None:
            claims["sites"] = list(sites)
        return jwt.encode(claims, self._own(issuer), algorithm="EdDSA")

    def verify_token(self, token: str, *, audience: str) -> Principal:
        """Return who asks.

        Raises:
            InvalidToken: Not signed by a key we know, not for us, or not now.
        """
        try:
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
            key = self._public.get(issuer) if isinstance(issuer, str) else None
            if key is None:
                raise InvalidToken("the token's issuer is not known here", message_zh="令牌签发者未知")
            # The library reads the machine's clock; ours is injected, so the times are checked here.
            claims = jwt.decode(
                token, key, algorithms=["EdDSA"], audience=audience,
                options={"require": ["exp", "iat", "sub"], "verify_exp": False, "verify_iat": False},
            )  # fmt: skip
        except jwt.InvalidTokenError as exc:
            raise InvalidToken(f"the token is not valid: {exc}", message_zh="令牌无效") from exc
        now = self._clock.now().timestamp()
        if not claims["iat"] - LEEWAY_S <= now <= claims["exp"] + LEEWAY_S:
            raise InvalidToken("the token has expired, or the clocks differ", message_zh="令牌已过期,或时钟不一致")
        sites = claims.get("sites")
        return Principal(
            subject=claims["sub"], kind=claims["kind"], scopes=frozenset(claims["scopes"]),
            sites=None if sites is None else tuple(sites),
        )  # fmt: skip

    def sign_bytes(self, name: str, data: bytes) -> str:
        """Return the base64 Ed25519 signature of ``data`` by ``name``."""
        return base64.b64encode(self._own(name).sign(data)).decode()

    def verify_bytes(self, name: str, data: bytes, signature: str) -> bool:
        """Return whether ``signature`` is that of ``name`` over ``data``."""
        key = self._public.get(name)
        if key is None:
            return False
        try:
            key.verify(base64.b64decode(signature, validate=True), data)
        except (InvalidSignature, ValueError):
            return False
        return True

    def holds(self, name: str) -> bool:
        """Return whether this process may sign as ``name``."""
        return name in self._private

    def _own(self, name: str) -> Ed25519PrivateKey:
        try:
            return self._private[name]
        except KeyError:
            raise MissingKey(f"this process does not hold the private key of {name}") from None
