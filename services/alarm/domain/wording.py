"""What a message about alarms says, in Chinese and English, short enough to be read on a telephone."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.alarm.domain.grouping import Kind, Member, Telling

LINES = 15
"""Alarms that a message names one by one, the worst first; the others are counted."""
ZH, EN = "zh", "en"

_TITLES = {
    Kind.NEWS: ("告警", "Alarms"),
    Kind.REMINDER: ("告警提醒（未确认）", "Reminder (not acknowledged)"),
    Kind.ESCALATION: ("告警升级（未确认）", "Escalation (not acknowledged)"),
    Kind.DIGEST: ("告警汇总", "Digest of alarms"),
    Kind.SUMMARY: ("告警汇总（数量过多）", "Summary (too many for single messages)"),
    Kind.TRIAL: ("通知测试", "Trial message"),
}


@dataclass(frozen=True, slots=True)
class Names:
    """What people call what an alarm is about."""

    site: Callable[[str, str], str]
    """Id of a site and language to its name."""
    device: Callable[[str, str], str]
    signal: Callable[[str, str], str]


@dataclass(frozen=True, slots=True)
class Words:
    """A message in one language."""

    title: str
    text: str


def words_for(telling: Telling, names: Names, local: Callable[[datetime], datetime], language: str) -> Words:
    """Return what a message says.

    Args:
        telling: What it is about.
        names: Of sites, devices and signals.
        local: Makes a time one of the clocks of whom it is for.
        language: ``zh`` or ``en``.
    """
    zh = language == ZH
    head = _TITLES[telling.kind][0 if zh else 1]
    parts = [*_counted(telling.begins, zh)]
    if telling.ends:
        parts.append(f"恢复 {len(telling.ends)} 条" if zh else f"{len(telling.ends)} ended")
    title = f"【{head}】{'，'.join(parts)}" if zh else f"[{head}] {', '.join(parts)}"
    begins = sorted(telling.begins, key=lambda m: (m.level, m.began_at, m.alarm_id))
    ends = sorted(telling.ends, key=lambda m: (m.level, m.began_at, m.alarm_id))
    shown = [*begins, *ends][:LINES]
    lines = [title, *(_line(member, names, local, language) for member in shown)]
    if more := len(begins) + len(ends) - len(shown):
        lines.append(f"……另有 {more} 条" if zh else f"… and {more} more")
    if telling.standing:
        lines.append(
            f"此前已通知、仍未恢复：{telling.standing} 条" if zh else f"told before, active: {telling.standing}"
        )
    return Words(title, "\n".join(lines))


def trial_words(channel: str, language: str) -> Words:
    """Return what a trial message says."""
    if language == ZH:
        return Words("【通知测试】Wattring", f"【通知测试】Wattring 的通知渠道“{channel}”工作正常。")
    return Words("[Trial message] Wattring", f"[Trial message] The channel “{channel}” of Wattring works.")


def _counted(begins: Iterable[Member], zh: bool) -> Sequence[str]:
    levels = sorted(Counter(member.level for member in begins).items())
    return [f"{level} 级 {number} 条" if zh else f"{number} of level {level}" for level, number in levels]


def _line(member: Member, names: Names, local: Callable[[datetime], datetime], language: str) -> str:
    zh = language == ZH
    what = (member.text_zh if zh else member.text) or names.signal(member.signal, language)
    where = names.site(member.site_id, language)
    if member.device_id is not None:
        where += f" {names.device(member.device_id, language)}"
    began = f"{local(member.began_at):%m-%d %H:%M:%S}"
    if member.ended_at is None:
        return (
            f"[{member.level} 级] {where} {what} {began}" if zh else f"[level {member.level}] {where}: {what} {began}"
        )
    ended = f"{local(member.ended_at):%m-%d %H:%M:%S}"
    if zh:
        return f"[恢复] {where} {what} {began} 至 {ended}"
    return f"[ended] {where}: {what} {began} to {ended}"
