"""``wattring alarms …``: looking at alarms, taking them up, maintenance windows and statistics on a terminal."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from libs.common.settings import CommonSettings
from libs.suite.api import LocalApi
from libs.suite.words import Words

Say = Callable[[str], None]

NOTHING = "-"


def list_alarms(
    settings: CommonSettings,
    *,
    state: str,
    sites: Sequence[str],
    levels: Sequence[int],
    signal: str | None,
    limit: int,
    words: Words,
    say: Say,
) -> None:
    """Say one line for each alarm, the youngest first."""
    with LocalApi(settings) as api:
        page = api.get(
            "alarms", state=state, site=list(sites) or None, level=list(levels) or None, signal=signal, limit=limit
        )
    for alarm in page["items"]:
        say(_line(alarm, words))
    if page["next_cursor"] is not None:
        say(words(f"the first {limit}; there are more", f"仅显示前 {limit} 条,还有更多"))
    elif not page["items"]:
        say(words("no such alarms", "没有符合条件的告警"))


def show(settings: CommonSettings, alarm_id: str, *, words: Words, say: Say) -> None:
    """Say everything about an alarm: its life, notes, deliveries, and who was told."""
    with LocalApi(settings) as api:
        alarm = api.get(f"alarms/{alarm_id}")
        told = api.get("notifications", alarm=alarm_id, limit=50)["items"]
    say(_line(alarm, words))
    facts = (
        ("acknowledged by", "确认人", alarm["acknowledged_by"]),
        ("assigned to", "处理人", alarm["assigned_to"]),
        ("shelved until", "搁置至", _time(alarm["shelved_until"])),
        ("explained by", "抑制来源", alarm["inhibited_by"]),
        ("end reason", "结束原因", alarm["end_reason"]),
    )
    for english, chinese, value in facts:
        if value not in (None, NOTHING):
            say(f"  {words(english, chinese)}: {value}")
    for event in alarm["events"]:
        say(f"  {_time(event.get('raised_at') or event['began_at'])} {event['sequence']:3} {event['phase']}")
    for note in alarm["notes"]:
        say(f"  {_time(note['at'])} {note['actor']}: {note['note']}")
    for one in alarm["reports"]:
        times = f"{_time(one['begin_reported_at'])} .. {_time(one['end_reported_at'])}"
        error = "" if one["error"] is None else f" ({one['error']})"
        say(f"  {words('reported to', '上报')} {one['destination']}: {one['state']} {times}{error}")
    found = alarm["diagnosis"]
    if found["state"] != "none":
        say(f"  {words('diagnosis', '分析状态')}: {found['state']} {found['cause'] or ''}".rstrip())
    for one in reversed(told):
        line = f"  {words('told', '通知')} {one['channel_id']}: {one['kind']} {one['state']} {_time(one['created_at'])}"
        say(line if one["error"] is None else f"{line} ({words(one['error'], one['error_zh'] or one['error'])})")


def acknowledge(
    settings: CommonSettings, alarm_ids: Sequence[str], *, note: str | None, words: Words, say: Say
) -> None:
    """Take alarms up."""
    with LocalApi(settings) as api:
        for alarm_id in alarm_ids:
            api.post(f"alarms/{alarm_id}/acknowledge", {"note": note})
            say(words(f"{alarm_id} acknowledged", f"{alarm_id} 已确认"))


def note(settings: CommonSettings, alarm_id: str, text: str, *, words: Words, say: Say) -> None:
    """Write something about an alarm."""
    with LocalApi(settings) as api:
        api.post(f"alarms/{alarm_id}/notes", {"note": text})
    say(words(f"{alarm_id} has the note", f"{alarm_id} 已备注"))


def clear(settings: CommonSettings, alarm_id: str, *, reason: str, words: Words, say: Say) -> None:
    """End an active alarm."""
    with LocalApi(settings) as api:
        api.post(f"alarms/{alarm_id}/clear", {"reason": reason})
    say(words(f"{alarm_id} will end with reason manual", f"{alarm_id} 将以“人工清除”结束"))


def shelve(
    settings: CommonSettings, alarm_id: str, *, hours: float, reason: str, words: Words, say: Say, now: datetime
) -> None:
    """Put an alarm aside for some hours."""
    until = now + timedelta(hours=hours)
    with LocalApi(settings) as api:
        api.post(f"alarms/{alarm_id}/shelve", {"until": until.isoformat(), "reason": reason})
    shown = _time(until.isoformat())
    say(words(f"{alarm_id} is shelved until {shown}", f"{alarm_id} 已搁置至 {shown}"))


def unshelve(settings: CommonSettings, alarm_id: str, *, words: Words, say: Say) -> None:
    """Take an alarm off its shelf."""
    with LocalApi(settings) as api:
        api.delete(f"alarms/{alarm_id}/shelf")
    say(words(f"{alarm_id} is off its shelf", f"{alarm_id} 已取消搁置"))


def assign(
    settings: CommonSettings, alarm_id: str, *, to: str | None, note: str | None, words: Words, say: Say
) -> None:
    """Say who sees to an alarm; nobody when ``to`` is None."""
    with LocalApi(settings) as api:
        api.post(f"alarms/{alarm_id}/assign", {"to": to, "note": note})
    if to is None:
        say(words(f"nobody sees to {alarm_id} now", f"{alarm_id} 已取消指派"))
    else:
        say(words(f"{to} sees to {alarm_id}", f"{alarm_id} 已指派给 {to}"))


# Maintenance windows


def list_windows(settings: CommonSettings, *, sites: Sequence[str], words: Words, say: Say) -> None:
    """Say one line for each maintenance window, the latest begin first."""
    with LocalApi(settings) as api:
        items = api.get("maintenance-windows", site=list(sites) or None)["items"]
    for one in items:
        devices = words("whole site", "整站") if one["device_ids"] is None else ",".join(one["device_ids"])
        off = "" if one["called_off_at"] is None else words(" (called off)", "(已取消)")
        say(
            f"{one['window_id']}  {_time(one['from'])} .. {_time(one['to'])}{off}  {one['site_id']}  {devices}  "
            f"{one['owner']}: {one['reason']}"
        )
    if not items:
        say(words("no windows", "没有维护窗口"))


def open_window(
    settings: CommonSettings,
    site_id: str,
    *,
    start: datetime,
    hours: float,
    devices: Sequence[str],
    reason: str,
    words: Words,
    say: Say,
) -> None:
    """Set a maintenance window up."""
    body = {
        "site_id": site_id,
        "device_ids": list(devices) or None,
        "from": start.isoformat(),
        "to": (start + timedelta(hours=hours)).isoformat(),
        "reason": reason,
    }
    with LocalApi(settings) as api:
        found = api.post("maintenance-windows", body)
    say(words(f"window {found['window_id']} is set up", f"维护窗口 {found['window_id']} 已建立"))


def end_window(settings: CommonSettings, window_id: str, *, words: Words, say: Say) -> None:
    """End a window now, or call it off."""
    with LocalApi(settings) as api:
        api.delete(f"maintenance-windows/{window_id}")
    say(words(f"window {window_id} is over", f"维护窗口 {window_id} 已结束"))


# Statistics


def statistics(
    settings: CommonSettings,
    *,
    days: float,
    by: str,
    operators: int,
    top: int,
    words: Words,
    say: Say,
    now: datetime,
) -> None:
    """Say how many alarms there were by something, how long they took, and how much they asked of operators."""
    span: dict[str, Any] = {"from": (now - timedelta(days=days)).isoformat(), "to": now.isoformat()}
    with LocalApi(settings) as api:
        counts = api.get("alarms/statistics/counts", by=by, **span)
        took = api.get("alarms/statistics/durations", **span)
        floods = api.get("alarms/statistics/floods", operators=operators, **span)
    say(words(f"alarms of the last {days:g} days by {by}", f"最近 {days:g} 天告警,按 {by}"))
    for one in counts[:top]:
        name = words(one["name"] or one["name_zh"] or "", one["name_zh"] or one["name"] or "")
        say(f"  {one['alarms']:8}  {one['share']:6.1%}  {one['key']}  {name}".rstrip())
    say(words("time to acknowledge and to clear: median / 90 %", "确认时长与恢复时长:中位数 / 90 分位"))
    for one in took:
        say(
            f"  {words('level', '等级')} {one['level']}: {one['alarms']}  "
            f"{_span(one['acknowledge_median_s'])} / {_span(one['acknowledge_p90_s'])}  "
            f"{_span(one['clear_median_s'])} / {_span(one['clear_p90_s'])}"
        )
    say(
        words(
            f"ISA-18.2, {operators} operators: {floods['mean_per_10_min']:.2f} alarms each in 10 min, "
            f"{floods['flood_share']:.1%} of the time in flood, ten most frequent {floods['most_frequent_share']:.0%}, "
            f"{len(floods['chattering'])} chattering, {floods['stale']} active for over 24 h",
            f"ISA-18.2,{operators} 名值班员:每人每 10 分钟 {floods['mean_per_10_min']:.2f} 条,"
            f"风暴时间占比 {floods['flood_share']:.1%},频繁前 10 占 {floods['most_frequent_share']:.0%},"
            f"抖动 {len(floods['chattering'])} 个,超过 24 小时未恢复 {floods['stale']} 条",
        )
    )


def _line(alarm: dict[str, Any], words: Words) -> str:
    name = words(alarm["signal_name"], alarm["signal_name_zh"]) if alarm["signal_name"] else alarm["signal"]
    marks = [
        mark
        for mark, is_so in (
            (words("active", "未恢复"), alarm["state"] == "active"),
            (words("acknowledged", "已确认"), alarm["acknowledged_by"] is not None),
            (words("explained", "已抑制"), alarm["inhibited_by"] is not None),
            (words("shelved", "已搁置"), alarm["shelved_until"] is not None),
            (words("flapping", "抖动"), alarm["flapping"]),
        )
        if is_so
    ]
    value = "" if alarm["value"] is None else f" {alarm['value']:.6g}{alarm['unit'] or ''}"
    place = f"{alarm['site_id']} {alarm['device_id'] or alarm['subject'] or ''}".rstrip()
    return (
        f"{alarm['alarm_id']}  {alarm['level']}  {_time(alarm['began_at'])} .. {_time(alarm['ended_at'])}  {place}  "
        f"{name}{value}  {','.join(marks)}"
    ).rstrip()


def _time(text: str | None) -> str:
    """Return a time as the clock on the wall here shows it."""
    return NOTHING if text is None else f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


def _span(seconds: float | None) -> str:
    return NOTHING if seconds is None else str(timedelta(seconds=round(seconds)))


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)
