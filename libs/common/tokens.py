"""Who speaks: Ed25519 keys, short signed tokens between services, signatures on commands.

Every service holds its own private key and the public keys of the others. A token is a JWT (RFC 8037,
EdDSA) that lives for a minute and names its audience. A service speaks for itself only; the gateway, which signs
people and API keys in, speaks for whom it vouches; export speaks for the supervision centres that come by its door,
each by its own name. A command's signature is over the canonical JSON of its fields,
so that the holder of the line can check what it is about to do.
"""

import base64
import errno
import hashlib
import logging
import math
import os
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from libs.common.clock import Clock
from libs.common.errors import PlatformError, Unauthenticated

logger = logging.getLogger(__name__)

ISSUERS = ("ingest", "alarm", "control", "carbon", "export", "gateway", "watchdog", "cli")
TOKEN_TTL_S = 60.0
"""Life of a token: long enough for one slow call, short enough to be worthless when leaked. [s]"""
TOKEN_TTL_MAX_S = 300.0
"""A token that says it lives longer is refused, whoever signed it. [s]"""
LEEWAY_S = 30.0
"""Clocks of two machines may differ by this much. [s]"""
MAX_KNOWN_TOKENS = 1000
"""Tokens whose signature need not be checked again."""
VOUCHES = "gateway"
"""The issuer that may speak for people, keys and services."""
CENTRE: Final = "sc"
"""Kind of a supervision centre, whose subject is the connection."""
CENTRE_DOOR = "export"
"""The issuer that may speak for supervision centres; nobody else may."""
KINDS = ("user", "key", "service", CENTRE)


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
    """User name, API key id, service name or connection of a supervision centre."""
    kind: Literal["user", "key", "service", "sc"]
    scopes: frozenset[str]
    """``<service>:<read|write|switch|admin>``; ``*`` in either place matches all."""
    sites: tuple[str, ...] | None = None
    """Sites (or regions, as ``region:<id>``) that the subject is limited to; None is all."""

    @property
    def actor(self) -> str:
        """The principal as the audit log names it: ``user:<name>``, ``key:<id>``, ``service:<name>``, ``sc:<id>``."""
        return f"{self.kind}:{self.subject}"

    def may(self, scope: str) -> bool:
        """Return whether the scope is held."""
        service, _, right = scope.partition(":")
        return any(held in self.scopes for held in (scope, f"{service}:*", f"*:{right}", "*:*"))


def canonical(payload: Mapping[str, Any]) -> bytes:
    """Return the bytes that are signed: compact UTF-8 JSON with sorted keys, times in RFC 3339 UTC.

    Raises:
        ValueError: Two different payloads could give the same bytes: a number that is not finite, a time without a
            zone, or a value that JSON does not know.
    """
    try:
        return orjson.dumps(_signable(payload), option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)
    except TypeError as exc:
        raise ValueError(f"cannot be signed: {exc}") from exc


def _signable(value: Any) -> Any:
    if isinstance(value, Mapping):
        # Nearly all parts are texts.
        return {key: part if type(part) is str else _signable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_signable(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"cannot be signed: {value} is written as null")
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"cannot be signed: {value.isoformat()} has no time zone")
        return value.astimezone(UTC)
    return value


class KeyRing:
    """The keys this process may use: its own private ones and everybody's public ones."""

    def __init__(
        self,
        private: Mapping[str, Ed25519PrivateKey],
        public: Mapping[str, Ed25519PublicKey],
        clock: Clock,
        *,
        unusable: Mapping[str, str] | None = None,
    ) -> None:
        """Hold keys; ``open`` is the usual way to get some.

        Args:
            private: Whom this process may sign as.
            public: Whose signatures it can check.
            clock: Tells when a token was made and whether it still counts.
            unusable: Why a private key that is there cannot be used, by issuer; for the message when it is wanted.
        """
        self._private = dict(private)
        self._public = dict(public)
        self._verifiers: dict[str, VerifyKey] = {}
        self._signers: dict[str, SigningKey] = {}
        self._known: OrderedDict[tuple[str, str], tuple[float, float, Principal]] = OrderedDict()
        """Audience and token that were right but for the time: when it was made, when it ends, who asks. Callers send
        one many times. [s]"""
        self._clock = clock
        self._unusable = dict(unusable or {})

    @classmethod
    def open(cls, folder: Path, clock: Clock) -> "KeyRing":
        """Load ``<name>.key`` (private, PEM) and ``<name>.pub`` (public, PEM) from a folder.

        A private key that this process may not read is somebody else's, until it is asked to sign with it.

        Raises:
            MissingKey: The folder holds no key, or a file that is not an Ed25519 key.
        """
        private: dict[str, Ed25519PrivateKey] = {}
        public: dict[str, Ed25519PublicKey] = {}
        unusable: dict[str, str] = {}
        for name in ISSUERS:
            own, known = folder / f"{name}.key", folder / f"{name}.pub"
            try:
                pem = _read(own)
            except PermissionError as exc:
                pem, unusable[name] = None, f"{own} cannot be read: {exc.strerror}"
            if pem is not None:
                private[name] = _private_key(own, pem)
                public[name] = private[name].public_key()
                _note_if_open_to_all(own)
            try:
                pem = _read(known)
            except PermissionError as exc:
                raise _unreadable(known, exc) from exc
            if pem is not None:
                key = _public_key(known, pem)
                if name in public and _raw(key) != _raw(public[name]):
                    raise MissingKey(
                        f"{known} does not belong to {own}: copy the pair again",
                        message_zh=f"{known} 与 {own} 不是一对:请重新复制",
                    )
                public[name] = key
        if not public:
            raise MissingKey(
                f"{folder}: no keys{_because(unusable.values())}; create them once with `wattring keys {folder}`",
                message_zh=f"{folder}:没有密钥{_because(unusable.values())};请先运行 `wattring keys {folder}` 生成",
            )
        return cls(private, public, clock, unusable=unusable)

    @staticmethod
    def create(folder: Path, names: Sequence[str] = ISSUERS) -> None:
        """Create the keys that are missing: private files mode 0600, in a folder mode 0700 unless it is there already.

        Safe to repeat, to interrupt, and for two processes at once: a key is there whole or not at all.

        Raises:
            MissingKey: The folder cannot be written, or holds a file that is not an Ed25519 key.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in names:
                path = folder / f"{name}.key"
                if not path.exists():
                    pem = Ed25519PrivateKey.generate().private_bytes(
                        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                    )
                    _write_once(path, pem, mode=0o600)
                if not (folder / f"{name}.pub").exists():
                    key = _private_key(path, path.read_bytes()).public_key()
                    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
                    _write_once(folder / f"{name}.pub", pem, mode=0o644)
        except OSError as exc:
            raise MissingKey(
                f"cannot create keys in {folder}: {exc.strerror}",
                message_zh=f"无法在 {folder} 中创建密钥:{exc.strerror}",
            ) from exc

    def sign_token(
        self,
        issuer: str,
        *,
        audience: str,
        subject: str | None = None,
        kind: Literal["user", "key", "service", "sc"] = "service",
        scopes: Sequence[str] = (),
        sites: Sequence[str] | None = None,
        ttl_s: float = TOKEN_TTL_S,
    ) -> str:
        """Return a token by ``issuer`` for ``audience``, on behalf of ``subject`` (default: the issuer itself).

        Raises:
            MissingKey: This process does not hold the issuer's key.
            ValueError: The issuer may not speak for that subject, or the token would live too long; nobody would
                take it.
        """
        if not _speaks_for(issuer, kind, subject or issuer):
            raise ValueError(f"{issuer} speaks for itself only, not for {kind} {subject}")
        if not 0 < ttl_s <= TOKEN_TTL_MAX_S:
            raise ValueError(f"a token lives up to {TOKEN_TTL_MAX_S:.0f} s, not {ttl_s} s")
        now = self._clock.now()
        claims: dict[str, Any] = {
            "iss": issuer, "aud": audience, "sub": subject or issuer, "kind": kind, "scopes": sorted(scopes),
            "iat": now, "exp": now + timedelta(seconds=ttl_s),
        }  # fmt: skip
        if sites is not None:
            claims["sites"] = list(sites)
        return jwt.encode(claims, self._own(issuer), algorithm="EdDSA")

    def verify_token(self, token: str, *, audience: str) -> Principal:
        """Return who asks.

        Raises:
            InvalidToken: Not signed by a key we know, not for us, or not now.
        """
        key = audience, token
        known = self._known.get(key)
        if known is None:
            issuer, claims = self._decoded(token, audience)
            known = *_times(claims), _principal(issuer, claims)
            self._known[key] = known
            if len(self._known) > MAX_KNOWN_TOKENS:
                self._known.popitem(last=False)
        issued_at, expires_at, principal = known
        if not issued_at - LEEWAY_S <= self._clock.now().timestamp() <= expires_at + LEEWAY_S:
            raise InvalidToken("the token has expired, or the clocks differ", message_zh="令牌已过期,或时钟不一致")
        return principal

    def _decoded(self, token: str, audience: str) -> tuple[str, Mapping[str, Any]]:
        """Return issuer and claims of a token that one of ours has signed; its times are not looked at."""
        try:
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
            key = self._public.get(issuer) if isinstance(issuer, str) else None
            if key is None:
                raise InvalidToken("the token's issuer is not known here", message_zh="令牌签发者未知")
            # The library reads the machine's clock; ours is injected, so the times are checked by us.
            claims = jwt.decode(
                token, key, algorithms=["EdDSA"], audience=audience,
                options={"require": ["exp", "iat", "sub"], "verify_exp": False, "verify_iat": False,
                         "verify_nbf": False},
            )  # fmt: skip
        except (jwt.InvalidTokenError, ValueError, RecursionError) as exc:
            reason = str(exc) if isinstance(exc, jwt.InvalidTokenError) else "it cannot be read"
            raise InvalidToken(f"the token is not valid: {reason}", message_zh="令牌无效") from None
        return str(issuer), claims

    def sign_bytes(self, name: str, data: bytes) -> str:
        """Return the base64 Ed25519 signature of ``data`` by ``name``."""
        return base64.b64encode(self._signer(name).sign(data).signature).decode()

    def key_id(self, name: str) -> str:
        """Return the SHA-256 of the public key of ``name`` (SubjectPublicKeyInfo, DER), as RFC 6962 names a log.

        Raises:
            MissingKey: This process does not know it.
        """
        key = self._public.get(name)
        if key is None:
            raise MissingKey(f"no public key of {name} is known here", message_zh=f"本进程没有 {name} 的公钥")
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(der).hexdigest()

    def verify_bytes(self, name: str, data: bytes, signature: str) -> bool:
        """Return whether ``signature`` is that of ``name`` over ``data``."""
        key = self._public.get(name)
        if key is None:
            return False
        try:
            self._verifier(name, key).verify(data, base64.b64decode(signature, validate=True))
        except (BadSignatureError, ValueError):
            return False
        return True

    def _signer(self, name: str) -> SigningKey:
        """Return our key as libsodium's, which signs in three fifths of the time, and the same."""
        found = self._signers.get(name)
        if found is None:
            found = self._signers[name] = SigningKey(self._own(name).private_bytes_raw())
        return found

    def _verifier(self, name: str, key: Ed25519PublicKey) -> VerifyKey:
        """Return the key as libsodium's: of ten thousand commands at once each is verified in a third of the time."""
        found = self._verifiers.get(name)
        if found is None:
            found = self._verifiers[name] = VerifyKey(key.public_bytes_raw())
        return found

    def holds(self, name: str) -> bool:
        """Return whether this process may sign as ``name``."""
        return name in self._private

    def _own(self, name: str) -> Ed25519PrivateKey:
        try:
            return self._private[name]
        except KeyError:
            why = _because(self._unusable[one] for one in (name,) if one in self._unusable)
            raise MissingKey(
                f"this process does not hold the private key of {name}{why}",
                message_zh=f"本进程没有 {name} 的私钥{why}",
            ) from None


def _times(claims: Mapping[str, Any]) -> tuple[float, float]:
    """Return when a token was made and when it ends. [s]"""
    issued_at, expires_at = claims["iat"], claims["exp"]
    if not all(isinstance(one, int | float) and abs(one) < 1e12 for one in (issued_at, expires_at)):
        raise InvalidToken("the token's times are not numbers", message_zh="令牌时间无效")
    if expires_at - issued_at > TOKEN_TTL_MAX_S:
        raise InvalidToken(f"the token lives longer than {TOKEN_TTL_MAX_S:.0f} s", message_zh="令牌有效期过长")
    return issued_at, expires_at


def _principal(issuer: str, claims: Mapping[str, Any]) -> Principal:
    """Return whom the issuer vouches for, unless it may not or the claims are no claims of ours."""
    subject, kind, scopes, sites = (claims.get(name) for name in ("sub", "kind", "scopes", "sites"))
    if not (isinstance(subject, str) and kind in KINDS and _are_texts(scopes) and (sites is None or _are_texts(sites))):
        raise InvalidToken("the token's claims are not understood", message_zh="令牌内容无法理解")
    if not _speaks_for(issuer, str(kind), subject):
        raise InvalidToken(f"{issuer} may not speak for {kind} {subject}", message_zh=f"{issuer} 无权代表 {subject}")
    return Principal(
        subject=subject, kind=kind, scopes=frozenset(scopes or ()), sites=None if sites is None else tuple(sites)
    )


def _speaks_for(issuer: str, kind: str, subject: str) -> bool:
    """Return whether an issuer may sign for a subject of that kind."""
    if kind == CENTRE:
        return issuer == CENTRE_DOOR
    return issuer == VOUCHES or (kind == "service" and subject == issuer)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _read(path: Path) -> bytes | None:
    """Return a key file, None where there is none.

    Raises:
        PermissionError: It, or its folder, may not be read by this process.
        MissingKey: It cannot be read for another reason.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except PermissionError:
        raise
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def _unreadable(path: Path, exc: OSError) -> MissingKey:
    return MissingKey(f"{path} cannot be read: {exc.strerror}", message_zh=f"{path} 无法读取:{exc.strerror}")


def _private_key(path: Path, pem: bytes) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise MissingKey(
            f"{path}: not an unencrypted Ed25519 private key (PEM)", message_zh=f"{path}:不是未加密的 Ed25519 私钥(PEM)"
        )
    return key


def _public_key(path: Path, pem: bytes) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise MissingKey(f"{path}: not an Ed25519 public key (PEM)", message_zh=f"{path}:不是 Ed25519 公钥(PEM)")
    return key


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _note_if_open_to_all(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    if mode & 0o007:
        # No warning: within a container there is nobody else, and its files often come so.
        logger.info("other accounts may read a private key", extra={"path": path, "mode": f"{mode:04o}"})


def _write_once(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file whole and for good, unless somebody else has meanwhile."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(new, path)  # unlike a rename, it never replaces what is there
        except FileExistsError:
            return
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
            new.rename(path)  # a file system without hard links: two writers at once are not told apart
    finally:
        new.unlink(missing_ok=True)


def _because(reasons: Iterable[str]) -> str:
    found = "; ".join(reasons)
    return f" ({found})" if found else ""
