"""Tokens and signatures: nobody speaks for another, nothing is changed on the way, and no key lies open."""

import base64
import hashlib
import hmac
import json
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import Unauthenticated
from libs.common.testing.clock import FakeClock
from libs.common.tokens import (
    ISSUERS,
    LEEWAY_S,
    TOKEN_TTL_MAX_S,
    TOKEN_TTL_S,
    InvalidToken,
    KeyRing,
    MissingKey,
    Principal,
    canonical,
)

NOW = datetime(2026, 3, 1, 4, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of everybody; read only."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    KeyRing.create(path)
    return path


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def keys(folder: Path, clock: FakeClock) -> KeyRing:
    return KeyRing.open(folder, clock)


def private_of(folder: Path, name: str) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def claims(**changes: Any) -> dict[str, Any]:
    now = int(NOW.timestamp())
    found = {
        "iss": "gateway", "aud": "control", "sub": "wang", "kind": "user", "scopes": ["control:read"],
        "iat": now, "exp": now + 60,
    } | changes  # fmt: skip
    return {name: value for name, value in found.items() if value is not ...}


# -- who asks -------------------------------------------------------------------------------------


def test_a_token_says_who_asks_and_what_they_may(keys: KeyRing) -> None:
    token = keys.sign_token(
        "gateway", audience="control", subject="wang", kind="user", scopes=["control:switch", "alarm:read"],
        sites=["s-1", "region:r-1"],
    )  # fmt: skip
    found = keys.verify_token(token, audience="control")
    assert found == Principal("wang", "user", frozenset({"control:switch", "alarm:read"}), ("s-1", "region:r-1"))
    assert found.actor == "user:wang"


def test_a_service_speaks_for_itself_without_a_limit_of_sites(keys: KeyRing) -> None:
    found = keys.verify_token(keys.sign_token("export", audience="control", scopes=["*:*"]), audience="control")
    assert found == Principal("export", "service", frozenset({"*:*"}), None)


def test_no_site_is_not_all_sites(keys: KeyRing) -> None:
    token = keys.sign_token("gateway", audience="alarm", subject="li", kind="user", sites=[])
    assert keys.verify_token(token, audience="alarm").sites == ()


@pytest.mark.parametrize(
    ("held", "scope", "may"),
    [
        ({"control:read"}, "control:read", True),
        ({"control:read"}, "control:switch", False),
        ({"control:*"}, "control:switch", True),
        ({"*:read"}, "control:read", True),
        ({"*:read"}, "control:switch", False),
        ({"*:*"}, "gateway:admin", True),
        (set(), "control:read", False),
        ({"*"}, "control:read", False),
        ({"control"}, "control:read", False),
    ],
)
def test_scopes(held: set[str], scope: str, may: bool) -> None:
    assert Principal("wang", "user", frozenset(held)).may(scope) is may


# -- forgeries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"kind": "user"}, {"subject": "control"}, {"kind": "key", "subject": "k-1"}])
def test_only_the_gateway_speaks_for_others(keys: KeyRing, folder: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="speaks for itself only"):
        keys.sign_token("alarm", audience="control", **changes)
    forged = claims(iss="alarm", sub=changes.get("subject", "alarm"), kind=changes.get("kind", "service"))
    token = jwt.encode(forged, private_of(folder, "alarm"), algorithm="EdDSA")
    with pytest.raises(InvalidToken, match="alarm may not speak for"):
        keys.verify_token(token, audience="control")


def test_a_token_is_for_one_audience(keys: KeyRing, folder: Path) -> None:
    token = keys.sign_token("gateway", audience="control", subject="wang", kind="user")
    with pytest.raises(InvalidToken, match="Audience"):
        keys.verify_token(token, audience="ingest")
    without = jwt.encode(claims(aud=...), private_of(folder, "gateway"), algorithm="EdDSA")
    with pytest.raises(InvalidToken, match="aud"):
        keys.verify_token(without, audience="control")


@pytest.mark.parametrize("issuer", ["mallory", "", None, 7, ["gateway"], {"gateway": 1}])
def test_an_unknown_issuer_is_nobody(keys: KeyRing, folder: Path, issuer: object) -> None:
    payload = json.dumps(claims(iss=issuer)).encode()
    token = jwt.api_jws.encode(payload, private_of(folder, "gateway"), algorithm="EdDSA")
    with pytest.raises(InvalidToken):
        keys.verify_token(token, audience="control")


def test_a_key_of_a_stranger_signs_nothing(keys: KeyRing) -> None:
    token = jwt.encode(claims(), Ed25519PrivateKey.generate(), algorithm="EdDSA")
    with pytest.raises(InvalidToken, match="Signature"):
        keys.verify_token(token, audience="control")


def test_one_service_does_not_sign_as_another(keys: KeyRing, folder: Path) -> None:
    token = jwt.encode(claims(iss="gateway"), private_of(folder, "alarm"), algorithm="EdDSA")
    with pytest.raises(InvalidToken, match="Signature"):
        keys.verify_token(token, audience="control")


def test_an_unsigned_token_is_refused(keys: KeyRing) -> None:
    token = jwt.encode(claims(), "", algorithm="none")
    assert token.endswith(".")
    with pytest.raises(InvalidToken):
        keys.verify_token(token, audience="control")


@pytest.mark.parametrize("form", ["pem", "raw", "file"])
def test_the_public_key_is_no_shared_secret(keys: KeyRing, folder: Path, form: str) -> None:
    """The classic confusion: HS256 with the public key, which everybody has, as the secret."""
    public = private_of(folder, "gateway").public_key()
    secret = {
        "pem": public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        "raw": public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw),
        "file": (folder / "gateway.pub").read_bytes(),
    }[form]
    token = by_hand({"alg": "HS256", "typ": "JWT"}, claims(), lambda data: hmac_sha256(secret, data))
    with pytest.raises(InvalidToken, match="alg"):
        keys.verify_token(token, audience="control")


def test_another_algorithm_is_refused_even_with_the_header_of_ours(keys: KeyRing) -> None:
    token = jwt.encode(claims(), ec.generate_private_key(ec.SECP256R1()), algorithm="ES256")
    with pytest.raises(InvalidToken):
        keys.verify_token(token, audience="control")


def by_hand(header: dict[str, Any], payload: dict[str, Any], sign: Any) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in (header, payload)]
    signature = base64.urlsafe_b64encode(sign(b".".join(parts))).rstrip(b"=")
    return b".".join([*parts, signature]).decode()


def hmac_sha256(secret: bytes, data: bytes) -> bytes:
    return hmac.new(secret, data, hashlib.sha256).digest()


@given(st.data())
def test_no_change_of_a_token_passes(tokens_of_all: tuple[KeyRing, str], data: st.DataObject) -> None:
    keys, token = tokens_of_all
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."))
    changed = token[:place] + letter + token[place + 1 :]
    try:
        found = keys.verify_token(changed, audience="control")
    except InvalidToken:
        return
    # Base64 leaves bits of its last letter unused: the same bytes in other letters are the same token.
    assert found == keys.verify_token(token, audience="control")
    assert decoded(changed) == decoded(token)


def decoded(token: str) -> list[bytes]:
    return [base64.urlsafe_b64decode(part + "==") for part in token.split(".")]


@pytest.fixture(scope="module")
def tokens_of_all(folder: Path) -> tuple[KeyRing, str]:
    keys = KeyRing.open(folder, FakeClock(NOW))
    return keys, keys.sign_token("gateway", audience="control", subject="wang", kind="user", scopes=["control:read"])


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]{1,40}\.[A-Za-z0-9_-]{1,40}\.[A-Za-z0-9_-]{0,40}", fullmatch=True))
def test_rubbish_is_an_invalid_token_and_nothing_else(tokens_of_all: tuple[KeyRing, str], text: str) -> None:
    with pytest.raises(InvalidToken):
        tokens_of_all[0].verify_token(text, audience="control")


@pytest.mark.parametrize("payload", ["[" * 40_000, '{"iss":' * 20_000, "9" * 10_000, '{"iss": 1e999}', "null", '"x"'])
def test_a_payload_made_to_break_a_parser_does_not(keys: KeyRing, payload: str) -> None:
    parts = [b'{"alg":"EdDSA","typ":"JWT"}', payload.encode(), b"x" * 64]
    token = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts).decode()
    with pytest.raises(InvalidToken):
        keys.verify_token(token, audience="control")


@given(
    st.dictionaries(
        st.sampled_from(["sub", "kind", "scopes", "sites", "iat", "exp", "aud"]),
        st.just(...) | st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
        min_size=1,
    )
)
def test_odd_claims_of_a_known_signer_are_refused_or_understood(
    tokens_of_all: tuple[KeyRing, str], folder_of_all: Path, changes: dict[str, Any]
) -> None:
    keys, _ = tokens_of_all
    payload = json.dumps(claims(**changes)).encode()
    token = jwt.api_jws.encode(payload, private_of(folder_of_all, "gateway"), algorithm="EdDSA")
    try:
        found = keys.verify_token(token, audience="control")
    except Unauthenticated:
        return
    assert isinstance(found.subject, str)
    assert found.kind in ("user", "key", "service")
    assert all(isinstance(scope, str) for scope in found.scopes)


@pytest.fixture(scope="module")
def folder_of_all(folder: Path) -> Path:
    return folder


# -- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after_s", "valid"),
    [
        (-LEEWAY_S - 1, False),
        (-LEEWAY_S, True),
        (0, True),
        (TOKEN_TTL_S, True),
        (TOKEN_TTL_S + LEEWAY_S, True),
        (TOKEN_TTL_S + LEEWAY_S + 1, False),
        (-86400, False),
        (86400, False),
    ],
)
def test_a_token_counts_for_a_minute_and_what_clocks_may_differ(
    keys: KeyRing, clock: FakeClock, after_s: float, valid: bool
) -> None:
    token = keys.sign_token("export", audience="control")
    clock.set_wall(NOW + timedelta(seconds=after_s))
    if valid:
        assert keys.verify_token(token, audience="control").subject == "export"
    else:
        with pytest.raises(InvalidToken, match="expired, or the clocks differ"):
            keys.verify_token(token, audience="control")


def test_the_clock_is_the_one_given_and_not_the_machines(folder: Path) -> None:
    for year in (1999, 2099):
        keys = KeyRing.open(folder, FakeClock(datetime(year, 1, 1, tzinfo=UTC)))
        assert keys.verify_token(keys.sign_token("export", audience="alarm"), audience="alarm").subject == "export"


def test_no_token_lives_long_whoever_signed_it(keys: KeyRing, folder: Path) -> None:
    for ttl_s in (0, -1.0, TOKEN_TTL_MAX_S + 1):
        with pytest.raises(ValueError, match="a token lives up to"):
            keys.sign_token("export", audience="control", ttl_s=ttl_s)
    keys.verify_token(keys.sign_token("export", audience="control", ttl_s=TOKEN_TTL_MAX_S), audience="control")
    eternal = jwt.encode(claims(exp=2**33), private_of(folder, "gateway"), algorithm="EdDSA")
    with pytest.raises(InvalidToken, match="lives longer than 300 s"):
        keys.verify_token(eternal, audience="control")


# -- signatures on commands -----------------------------------------------------------------------

COMMAND = {
    "command_id": "c-1",
    "device_id": "d-1",
    "action": "off",
    "arguments": {"channel": 1.0},
    "not_after": "2026-03-01T04:05:00Z",
    "off_at_most_s": 3600.0,
}

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def test_a_signature_is_checked_against_what_was_signed(keys: KeyRing) -> None:
    signature = keys.sign_bytes("control", canonical(COMMAND))
    assert keys.verify_bytes("control", canonical(COMMAND), signature)
    assert keys.verify_bytes("control", canonical(dict(reversed(COMMAND.items()))), signature)
    assert not keys.verify_bytes("ingest", canonical(COMMAND), signature)
    assert not keys.verify_bytes("mallory", canonical(COMMAND), signature)


@pytest.mark.parametrize(
    "changes",
    [
        {"action": "on"},
        {"device_id": "d-2"},
        {"not_after": "2026-03-01T05:05:00Z"},
        {"off_at_most_s": 36000.0},
        {"arguments": {"channel": 2.0}},
        {"arguments": {"channel": 1.0, "force": True}},
        {"extra": None},
    ],
)
def test_a_tampered_command_is_noticed(keys: KeyRing, changes: dict[str, Any]) -> None:
    signature = keys.sign_bytes("control", canonical(COMMAND))
    assert not keys.verify_bytes("control", canonical({**COMMAND, **changes}), signature)


@given(st.dictionaries(texts, json_values, max_size=4))
def test_the_signed_bytes_survive_the_wire(payload: dict[str, Any]) -> None:
    """What a reader parses gives the bytes that the writer signed."""
    assert canonical(orjson.loads(orjson.dumps(payload))) == canonical(payload)
    assert canonical(json.loads(json.dumps(payload))) == canonical(payload)


@given(st.dictionaries(texts, json_values, max_size=3), st.dictionaries(texts, json_values, max_size=3))
def test_different_payloads_have_different_bytes(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (canonical(one) == canonical(other)) == (
        json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    )


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), datetime(2026, 3, 1), {"deep": [float("-inf")]}, {1, 2}, b"x", 2**70],  # noqa: DTZ001
)
def test_what_could_be_read_in_two_ways_is_not_signed(value: object) -> None:
    with pytest.raises(ValueError, match="cannot be signed"):
        canonical({"value": value})


def test_one_instant_is_signed_in_one_way() -> None:
    local = datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=8)))
    assert canonical({"at": local}) == canonical({"at": NOW}) == b'{"at":"2026-03-01T04:00:00Z"}'


@pytest.mark.parametrize("signature", ["", "x", "not base64!", "密", base64.b64encode(b"x" * 63).decode(), "A" * 88])
def test_a_signature_that_is_none_is_false_and_no_error(keys: KeyRing, signature: str) -> None:
    assert keys.verify_bytes("control", b"data", signature) is False


# -- key files ------------------------------------------------------------------------------------


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_private_and_creating_them_again_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "keys"
    umask = os.umask(0)
    try:
        KeyRing.create(folder)
    finally:
        os.umask(umask)
    assert mode_of(folder) == 0o700
    assert {path.name for path in folder.iterdir()} == {f"{name}.{kind}" for name in ISSUERS for kind in ("key", "pub")}
    assert {mode_of(folder / f"{name}.key") for name in ISSUERS} == {0o600}
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    KeyRing.create(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert KeyRing.open(folder, FakeClock()).holds("watchdog")


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    """Whoever names /etc must not find it closed to everybody afterwards."""
    tmp_path.chmod(0o755)
    KeyRing.create(tmp_path, ["ingest"])
    assert mode_of(tmp_path) == 0o755


def test_an_interrupted_creation_is_completed(tmp_path: Path) -> None:
    KeyRing.create(tmp_path, ["ingest"])
    key, public = (tmp_path / "ingest.key").read_bytes(), (tmp_path / "ingest.pub").read_bytes()
    (tmp_path / "ingest.pub").unlink()
    KeyRing.create(tmp_path, ["ingest"])
    assert (tmp_path / "ingest.key").read_bytes() == key
    assert (tmp_path / "ingest.pub").read_bytes() == public


def test_two_who_create_at_once_agree(tmp_path: Path) -> None:
    for round_ in range(5):
        folder = tmp_path / str(round_)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _, folder=folder: KeyRing.create(folder), range(4)))
        keys = KeyRing.open(folder, FakeClock(NOW))  # refuses a pair that is none
        assert all(keys.holds(name) for name in ISSUERS)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    KeyRing.create(tmp_path / "keys", ["ingest"])
    assert KeyRing.open(tmp_path / "keys", FakeClock()).holds("ingest")


def test_a_service_with_its_own_key_and_everybodys_public_ones(folder: Path, tmp_path: Path) -> None:
    for name in ISSUERS:
        (tmp_path / f"{name}.pub").write_bytes((folder / f"{name}.pub").read_bytes())
    (tmp_path / "export.key").write_bytes((folder / "export.key").read_bytes())
    (tmp_path / "export.key").chmod(0o600)
    export, control = KeyRing.open(tmp_path, FakeClock(NOW)), KeyRing.open(folder, FakeClock(NOW))
    assert export.holds("export")
    assert not export.holds("control")
    assert control.verify_token(export.sign_token("export", audience="control"), audience="control")
    assert export.verify_token(control.sign_token("control", audience="export"), audience="export")
    with pytest.raises(MissingKey, match=r"does not hold the private key of control$"):
        export.sign_token("control", audience="ingest")


def test_no_keys_at_all_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(MissingKey, match=rf"^{tmp_path}: no keys; create them once with `wattring keys") as caught:
        KeyRing.open(tmp_path, FakeClock())
    assert "wattring keys" in (caught.value.message_zh or "")
    with pytest.raises(MissingKey, match="no keys"):
        KeyRing.open(tmp_path / "absent", FakeClock())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ingest.key", b""),
        ("ingest.key", b"-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n"),
        ("ingest.key", b"\xff\xfe"),
        ("ingest.pub", b"ssh-ed25519 AAAA"),
        ("ingest.pub", b""),
    ],
)
def test_a_damaged_key_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MissingKey, match=rf"{name}: not an .*Ed25519"):
        KeyRing.open(tmp_path, FakeClock())


def test_a_key_of_another_kind_or_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    for key, encryption in (
        (ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()),
        (Ed25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"hunter2")),
    ):
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        (tmp_path / "ingest.key").write_bytes(pem)
        with pytest.raises(MissingKey, match="not an unencrypted Ed25519 private key"):
            KeyRing.open(tmp_path, FakeClock())


def test_a_pair_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "ingest.key").write_bytes((folder / "ingest.key").read_bytes())
    (tmp_path / "ingest.pub").write_bytes((folder / "alarm.pub").read_bytes())
    with pytest.raises(MissingKey, match="does not belong to"):
        KeyRing.open(tmp_path, FakeClock())


def test_a_private_key_that_all_may_read_is_noted(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    KeyRing.open(folder, FakeClock())
    assert not caplog.records
    (tmp_path / "ingest.key").write_bytes((folder / "ingest.key").read_bytes())
    (tmp_path / "ingest.key").chmod(0o644)
    KeyRing.open(tmp_path, FakeClock())
    (record,) = caplog.records
    assert record.getMessage() == "other accounts may read a private key"
    assert (vars(record)["path"], vars(record)["mode"]) == (tmp_path / "ingest.key", "0644")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Give up root's right to read everything, if we have it."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def others_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that an account without rights may enter."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        KeyRing.create(path, ["ingest", "alarm"])
        for pub in path.glob("*.pub"):
            pub.chmod(0o644)
        yield path
        path.chmod(0o755)


def test_a_key_that_may_not_be_read_is_somebody_elses_until_it_is_wanted(others_folder: Path) -> None:
    (others_folder / "ingest.key").chmod(0)
    (others_folder / "alarm.key").chmod(0o644)
    with unprivileged():
        keys = KeyRing.open(others_folder, FakeClock())
        assert keys.holds("alarm")
        assert not keys.holds("ingest")
        with pytest.raises(MissingKey, match=r"of ingest \(.*/ingest.key cannot be read: Permission denied\)"):
            keys.sign_bytes("ingest", b"")


def test_a_folder_that_may_not_be_entered_is_named(others_folder: Path) -> None:
    others_folder.chmod(0)
    with unprivileged(), pytest.raises(MissingKey, match=r"\.pub cannot be read: Permission denied"):
        KeyRing.open(others_folder, FakeClock())


def test_a_folder_that_cannot_be_written_is_named(others_folder: Path, tmp_path: Path) -> None:
    others_folder.chmod(0o555)
    with unprivileged(), pytest.raises(MissingKey, match=rf"cannot create keys in {others_folder}: Permission denied"):
        KeyRing.create(others_folder)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(MissingKey, match="cannot create keys"):
        KeyRing.create(file / "keys")
