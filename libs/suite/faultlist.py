"""``wattring fault …``: where faults were localised, and a look that a person orders."""

import time
from pathlib import Path
from typing import Any

from libs.common.settings import CommonSettings
from libs.suite.api import LocalApi
from libs.suite.calls import Say, items
from libs.suite.words import Words

POLL_S = 1.0
PAGE = 200


def list_faults(settings: CommonSettings, *, device: str | None, all_: bool, words: Words, say: Say) -> int:
    """Say the diagnoses, the open ones unless all are asked for; return how many."""
    count = 0
    with LocalApi(settings) as api:
        for item in items(api, "diagnoses", device=device, state=None if all_ else "open", limit=PAGE):
            _say_one(item, words, say)
            count += 1
    return count


def look(settings: CommonSettings, device: str, *, wait_s: float, words: Words, say: Say) -> bool:
    """Order a look at a device and say what came of it; return whether a cause was found in time."""
    with LocalApi(settings) as api:
        before = {item["diagnosis_id"]: item["looked_at"] for item in _of(api, device)}
        api.post("diagnoses", {"device_id": device})
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            for item in _of(api, device):
                if before.get(item["diagnosis_id"]) != item["looked_at"]:
                    _say_one(item, words, say)
                    _say_evidence(item, words, say)
                    return True
            time.sleep(POLL_S)
    say(words(f"nothing found within {wait_s:g} s", f"{wait_s:g} 秒内未发现故障"))
    return False


def list_codes(settings: CommonSettings, *, receiver: str | None, words: Words, say: Say) -> None:
    """Say all causes with their codes."""
    with LocalApi(settings) as api:
        for item in api.get("diagnoses/codes", receiver=receiver)["items"]:
            say(f"{item['code']}  {item['cause']:22} {words(item['text_en'], item['text_zh'])}")


def save(settings: CommonSettings, path: Path, *, words: Words, say: Say) -> None:
    """Write the diagnoses into a workbook."""
    with LocalApi(settings) as api:
        body = api.fetch("diagnoses/download")
    path.write_bytes(body)
    say(words(f"{path}: {len(body)} bytes", f"{path}：{len(body)} 字节"))


def _of(api: LocalApi, device: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get("diagnoses", device=device, limit=5)["items"]
    return found


def _say_one(item: dict[str, Any], words: Words, say: Say) -> None:
    until = item["ended_at"] or words("open", "未恢复")
    size = item["group_size"]
    group = "" if size is None else words(f" (group of {size})", f"（同因 {size} 台）")
    name = words(item["name_en"], item["name_zh"])
    say(f"{item['began_at']}  {until}  {item['device_id']}  {item['code']} {name}{group}")
    say(f"    {words(item['advice_en'], item['advice_zh'])}")


def _say_evidence(item: dict[str, Any], words: Words, say: Say) -> None:
    for fact in item["evidence"]:
        mark = "*" if fact["decisive"] else " "
        say(f"    {mark} {fact['name']} = {fact['value']}  ({fact['source']})")
    for silence in item["unreachable"]:
        say("    ? " + words("could not tell: ", "无法查询：") + f"{silence['source']}: {silence['reason']}")
