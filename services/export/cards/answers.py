"""What the card platform answers, in plain facts.

Envelopes and names differ between interfaces and provinces, so a field is looked for by its name wherever it stands.
What is absent, empty or unreadable stays absent: it is never taken for "in order".
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

PLATFORM_ZONE = ZoneInfo("Asia/Shanghai")
"""Times in answers have no offset and are local."""
MAX_NODES = 10_000
"""Parts of an answer that are looked at."""

KB_PER_MB = 1024.0

Facts = Mapping[str, bool | float | str]

_STATES = ("1", "2", "3", "4", "5", "6", "7")
_BLOCKED = {"已断网": True, "未断网": False}
_SUCCESS = ("0", "200", "SUCCESS")
_CODES = ("resultCode", "result", "code", "RESULT")


class NoAnswer(ValueError):
    """The platform said that it cannot, or something that nobody can read."""


def check(answer: Any) -> Mapping[str, Any]:
    """Return an answer that the platform calls a success.

    Raises:
        NoAnswer: It is none.
    """
    if not isinstance(answer, dict):
        raise NoAnswer("expected a JSON object")
    code = next((str(answer[name]) for name in _CODES if answer.get(name) not in (None, "")), None)
    if code is not None and code.upper() not in _SUCCESS:
        text = answer.get("resultMsg") or answer.get("message") or answer.get("msg") or ""
        raise NoAnswer(f"code {code[:40]}: {str(text)[:200]}")
    return answer


def read_state(answer: Mapping[str, Any]) -> Facts:
    """Return what ``queryCardMainStatus`` says: state, cut-off, real name."""
    found: dict[str, bool | float | str] = {}
    state = _text(answer, "productMainStatusCd", "cardStatus")
    if state in _STATES:
        found["card_state"] = state
    blocked = _BLOCKED.get(_text(answer, "netBlockStatusName") or "")
    if blocked is not None:
        found["card_cut_off"] = blocked
    real = _text(answer, "authStatus")
    if real in ("0", "1"):
        found["card_real_named"] = real == "1"
    return found


def read_product(answer: Mapping[str, Any]) -> Facts:
    """Return what ``prodInstQuery`` says: network, directed traffic and its addresses, quota, binding, expiry."""
    found: dict[str, bool | float | str] = {}
    network = (_text(answer, "networkType", "netModelName") or "").lower()
    if "nb" in network:
        found["card_network"] = "nb"
    elif any(name in network for name in ("4g", "lte", "5g")):
        found["card_network"] = "4g"
    offer = _text(answer, "OFFER_TYPE", "offerType")
    if offer is not None:
        found["card_directed"] = offer == "1"
    targets = _targets(answer)
    if targets:
        found["card_directed"] = True
        found["card_targets"] = ",".join(targets)
    quota = _number(answer, "offNetQuotaMB", "quota")
    if quota is not None:
        found["card_quota_kb"] = quota * KB_PER_MB
    bound = _text(answer, "bindStatus", "bindResult")
    if bound in ("0", "1"):
        found["card_bound"] = bound == "1"
    expires = _text(answer, "expireDate", "expDate", "endDate")
    if expires is not None and len(expires) >= 10:
        found["card_expires_on"] = expires[:10]
    return found


def read_traffic(answer: Mapping[str, Any]) -> Facts:
    """Return what ``queryTraffic`` says of the month: used, and the package where it is named. [kB]"""
    found: dict[str, bool | float | str] = {}
    used = _kilobytes(answer, "TOTAL_BYTES_CNT", "totalBytesCnt")
    if used is not None:
        found["card_used_kb"] = used
    package = _kilobytes(answer, "totalFlow", "accuAmount")
    if package is not None:
        found["card_package_kb"] = package
    return found


def read_arrears(answer: Mapping[str, Any]) -> Facts:
    """Return what ``queryOwe`` says. [yuan]"""
    owed = _number(answer, "oweFee", "owe", "charge")
    return {} if owed is None else {"card_owed": owed}


def read_session(answer: Mapping[str, Any]) -> Facts:
    """Return what ``getOnlineStatus`` says: whether there is a session, since when, with which module."""
    found: dict[str, bool | float | str] = {}
    kind = (_text(answer, "acctStatusType") or "").lower()
    if kind in ("start", "stop"):
        found["session"] = kind
    for name, field in (("session_imei", "imei"), ("session_apn", "apn")):
        value = _text(answer, field)
        if value is not None:
            found[name] = value
    since = _text(answer, "eventTimestamp", "startTime")
    if since is not None and (when := _time(since)) is not None:
        found["session_since"] = when.isoformat()
    return found


def read_states(answer: Mapping[str, Any]) -> Mapping[str, str]:
    """Return what ``batchQrySimStatus`` says: number to state; entries that cannot be read are left out."""
    found: dict[str, str] = {}
    for node in _nodes(answer):
        if isinstance(node, dict):
            number = node.get("accessNumber") or node.get("access_number")
            state = node.get("simStatus") or node.get("productMainStatusCd")
            if number is not None and str(state) in _STATES:
                found[str(number)] = str(state)
    return found


def _nodes(answer: Any) -> Iterator[Any]:
    """Yield all parts of an answer, the outer ones first, up to a bound."""
    waiting = [answer]
    seen = 0
    while waiting and seen < MAX_NODES:
        node = waiting.pop(0)
        seen += 1
        yield node
        if isinstance(node, dict):
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _text(answer: Any, *names: str) -> str | None:
    for node in _nodes(answer):
        if isinstance(node, dict):
            for name in names:
                value = node.get(name)
                if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
                    return str(value).strip()
    return None


def _number(answer: Any, *names: str) -> float | None:
    return _plain(_text(answer, *names) or "")


def _kilobytes(answer: Any, *names: str) -> float | None:
    """Return an amount of data, which is in kB unless it names MB itself."""
    text = (_text(answer, *names) or "").upper()
    number = _plain(text.removesuffix("MB").removesuffix("KB").strip())
    return number * KB_PER_MB if number is not None and text.endswith("MB") else number


def _plain(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < 1e15 else None


def _time(text: str) -> datetime | None:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=PLATFORM_ZONE)


def _targets(answer: Any) -> Sequence[str]:
    """Return the addresses of the function "IP/域名" of directed traffic."""
    found: list[str] = []
    for node in _nodes(answer):
        if isinstance(node, dict) and "域名" in str(node.get("attrName") or node.get("funName") or ""):
            value = str(node.get("attrValue") or node.get("value") or "")
            found += [part.strip() for part in value.replace(";", ",").replace("；", ",").split(",") if part.strip()]
    return found
