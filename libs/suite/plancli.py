"""``wattring plan …``: savings plans and plans of set points, from a file to the last of their windows.

A file is the JSON that the API takes; one that names a ``point`` is a plan of set points, any other a savings plan.
A stored plan is named by its id, of whichever kind it is.
"""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import orjson
import typer

from libs.common.errors import InvalidInput
from libs.suite.calls import Say, Settings, Suite, items
from libs.suite.words import Words

SAVINGS = "plans"
SETPOINTS = "plans/setpoints"
SHOWN = 50
"""Windows, loads or shutdowns that are listed; of the others the counts are enough."""
PAGE = 1000
PLANS_A_PAGE = 100
COUNTED = 20_000
"""Shutdowns or windows that progress is counted over."""
ONLY_STORED = ("name", "note")
"""Fields of a file that a plan has only once it is stored."""
SETPOINT_FIELDS = (
    "point", "value", "value_after", "first_date", "last_date", "windows", "zone", "weekdays", "exceptions",
    "calendar_ids", "day_class", "working_calendar",
)  # fmt: skip
AROUND = timedelta(hours=24)
"""Progress is that of the shutdowns so far before and after now, unless times are given."""


class Stored(NamedTuple):
    """A plan as the API tells of it."""

    kind: str
    """Where plans of its kind are: ``SAVINGS`` or ``SETPOINTS``."""
    view: dict[str, Any]

    @property
    def path(self) -> str:
        """Where it is itself."""
        return f"{self.kind}/{self.view['plan_id']}"


def add_plans(app: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    """Add ``wattring plan``.

    Args:
        app: The command line.
        words: Its language.
        settings: Reads the settings, when a command runs.
        say: Prints a line.
    """
    group = typer.Typer(
        help=words("savings plans and plans of set points", "节能策略与设定值策略"), no_args_is_help=True,
        rich_markup_mode=None,
    )  # fmt: skip
    app.add_typer(group, name="plan")
    plan_ = Annotated[str, typer.Argument(metavar="PLAN", help=words("id of a plan", "策略编号"))]
    file_ = Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help=words("JSON; with a `point` it sets points", "JSON 文件;含 point 者为设定值策略")
        ),
    ]
    reason_ = Annotated[str, typer.Option("--reason", help=words("why", "原因"))]

    def with_api(command: Callable[..., None], **arguments: Any) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            command(api, words, say, **arguments)

    @group.command("list", help=words("all plans, the youngest first", "全部策略,最新者在前"))
    def list_(
        state: Annotated[
            str | None, typer.Option(help=words("draft, approved, active or ended", "draft、approved、active 或 ended"))
        ] = None,
    ) -> None:
        with_api(list_plans, state=state)

    @group.command("preview", help=words("what a file would amount to; nothing is stored", "预览策略文件,不保存"))
    def preview(file: file_) -> None:
        with_api(preview_plan, file=file)

    @group.command("draft", help=words("store a file as a draft", "将策略文件存为草稿"))
    def draft(file: file_) -> None:
        with_api(draft_plan, file=file)

    @group.command("show", help=words("one plan and its windows", "策略及其时段"))
    def show(plan: plan_) -> None:
        with_api(show_plan, plan=plan)

    @group.command("approve", help=words("put a draft into force", "批准草稿并使其生效"))
    def approve(plan: plan_) -> None:
        with_api(approve_plan, plan=plan)

    @group.command("progress", help=words("how far its shutdowns or windows are", "策略执行进度"))
    def progress(
        plan: plan_,
        start: Annotated[
            str | None, typer.Option("--from", help=words("RFC 3339; a day ago", "RFC 3339 时间,默认一天前"))
        ] = None,
        end: Annotated[
            str | None, typer.Option("--to", help=words("RFC 3339; in a day", "RFC 3339 时间,默认一天后"))
        ] = None,
    ) -> None:
        now = datetime.now(UTC)
        with_api(
            show_progress, plan=plan, start=start or (now - AROUND).isoformat(), end=end or (now + AROUND).isoformat()
        )

    @group.command("end", help=words("end a plan early; what is off wakes as planned", "提前结束策略,已关断者按时唤醒"))
    def end(plan: plan_, reason: reason_ = "") -> None:
        with_api(end_plan, plan=plan, reason=reason)

    @group.command(help=words("what a plan would have switched and saved on past days", "用历史数据仿真策略"))
    def simulate(
        plan: Annotated[
            str,
            typer.Argument(metavar="PLAN", help=words("id of a plan, or a file (JSON)", "策略编号,或策略文件(JSON)")),
        ],
        first: Annotated[
            str | None,
            typer.Option("--from", help=words("first date, in place of the plan's", "起始日期,代替策略中的日期")),
        ] = None,
        last: Annotated[
            str | None,
            typer.Option("--to", help=words("last date, in place of the plan's", "结束日期,代替策略中的日期")),
        ] = None,
    ) -> None:
        with_api(simulate_plan, plan=plan, first=first, last=last)


def list_plans(api: Suite, words: Words, say: Say, *, state: str | None) -> None:
    """Say one line for each plan, savings plans first."""
    count = 0
    for kind in (SAVINGS, SETPOINTS):
        without = {"loads": "false"} if kind == SAVINGS else {}  # of which a plan may have a hundred thousand
        for view in items(api, kind, state=state, limit=PLANS_A_PAGE, **without):
            say(_line(Stored(kind, view), words))
            count += 1
    if not count:
        say(words("no plans", "没有策略"))


def preview_plan(api: Suite, words: Words, say: Say, *, file: Path) -> None:
    """Say what the plan of a file would amount to.

    Raises:
        InvalidInput: The file is no JSON object.
    """
    body = read_plan(file)
    _say_preview(api.post(f"{_kind(body)}/preview", _unstored(body)), words, say)


def draft_plan(api: Suite, words: Words, say: Say, *, file: Path) -> None:
    """Store the plan of a file as a draft, and say what it amounts to.

    Raises:
        InvalidInput: The file is no JSON object.
    """
    body = read_plan(file)
    view = api.post(_kind(body), body)
    _say_preview(view["preview"], words, say)
    plan = view["plan_id"]
    say(words(f"drafted: wattring plan approve {plan}", f"已存为草稿:wattring plan approve {plan}"))


def show_plan(api: Suite, words: Words, say: Say, *, plan: str) -> None:
    """Say what a plan is, who stands behind it, and its windows."""
    found = _find(api, plan)
    view = found.view
    say(_line(found, words))
    people = (
        (words("drafted by", "起草"), view["created_by"], view["created_at"], ""),
        (words("approved by", "批准"), view["approved_by"], view["approved_at"], ""),
        (words("ended by", "结束"), view["ended_by"], view["ended_at"], view["end_reason"] or ""),
    )
    for what, who, at, why in people:
        if at is not None:
            say(f"  {what} {who or '-'}  {at}  {why}".rstrip())
    if found.kind == SAVINGS:
        _say_preview(view["preview"], words, say)
    elif view["state"] == "draft":
        _say_preview(api.post(f"{SETPOINTS}/preview", _schedule(view)), words, say)
    else:
        for one in islice(items(api, f"{found.path}/windows", limit=SHOWN), SHOWN):
            say(_window(one, words))


def approve_plan(api: Suite, words: Words, say: Say, *, plan: str) -> None:
    """Put a draft into force, and say how to look after it."""
    found = _find(api, plan)
    say(_line(Stored(found.kind, api.post(f"{found.path}/approve")), words))
    say(words(f"approved: wattring plan progress {plan}", f"已批准:wattring plan progress {plan}"))


def end_plan(api: Suite, words: Words, say: Say, *, plan: str, reason: str) -> None:
    """End a plan before its last window."""
    found = _find(api, plan)
    say(_line(Stored(found.kind, api.post(f"{found.path}/end", {"reason": reason})), words))


def show_progress(api: Suite, words: Words, say: Say, *, plan: str, start: str, end: str) -> None:
    """Say how far the shutdowns of a savings plan between two times are, or all windows of a plan of set points."""
    found = _find(api, plan)
    if found.kind == SETPOINTS:
        pages, line = items(api, f"{found.path}/windows", limit=PAGE), _window
    else:
        pages, line = items(api, "occurrences", plan=plan, limit=PAGE, **{"from": start, "to": end}), _occurrence
    counts: Counter[str] = Counter()
    for one in islice(pages, COUNTED):
        if counts.total() < SHOWN:
            say(line(one, words))
        counts[one["state"]] += 1
    if not counts:
        say(words("nothing in this time", "该时段内没有记录"))
        return
    _say_more(counts.total(), words, say)
    say(f"{counts.total()}  " + "  ".join(f"{state} {count}" for state, count in sorted(counts.items())))
    if next(pages, None) is not None:
        say(words("not all were counted: give a shorter time", "未全部统计:请缩短时间范围"))


def simulate_plan(api: Suite, words: Words, say: Say, *, plan: str, first: str | None, last: str | None) -> None:
    """Say what a stored plan, or the one of a file, would have done on past dates.

    Without dates it is the last week of a stored plan, and the dates that a file says.

    Raises:
        InvalidInput: The file is no JSON object, or a plan of set points.
    """
    path = Path(plan)
    if path.is_file():
        body = read_plan(path)
        if _kind(body) == SETPOINTS:
            raise InvalidInput(
                f"{path}: a plan of set points switches nothing, so there is nothing to simulate",
                message_zh=f"{path}:设定值策略不关断负载,无法仿真",
            )
        dates = {"first_date": first, "last_date": last}
        body |= {name: date for name, date in dates.items() if date is not None}
        found: dict[str, Any] = api.post("plans/simulate", _unstored(body))
    else:
        found = api.get(f"plans/{plan}/simulation", first_date=first, last_date=last)
    for one in found["loads"]:
        say(f"{one['load_id']:20} {_figures(one, words)}")
    say(f"{words('together', '合计'):20} {_figures(found, words)}")
    for one in found["skipped"]:
        say(f"  {one['count']} x {one['guard']}: {words(one['message'], one['message_zh'])}")
    if found["ahead"]:
        say(words(f"{found['ahead']} windows are not over yet", f"{found['ahead']} 个时段尚未结束"))
    guards = ", ".join(found["not_replayed"])
    say(words(f"not in the history, so not judged: {guards}", f"历史数据无法判断:{guards}"))


def read_plan(path: Path) -> dict[str, Any]:
    """Return the plan in a file.

    Raises:
        InvalidInput: There is no such file, or it is no JSON object.
    """
    try:
        body = orjson.loads(path.read_bytes())
    except OSError as exc:
        raise InvalidInput(
            f"{path}: cannot be read: {exc.strerror}", message_zh=f"{path}:无法读取:{exc.strerror}"
        ) from exc
    except orjson.JSONDecodeError as exc:
        raise InvalidInput(f"{path}: no JSON: {exc}", message_zh=f"{path}:不是 JSON:{exc}") from exc
    if not isinstance(body, dict):
        raise InvalidInput(
            f"{path}: a JSON object with the fields of a plan is expected",
            message_zh=f"{path}:应为含策略字段的 JSON 对象",
        )
    return body


def _kind(body: dict[str, Any]) -> str:
    return SETPOINTS if "point" in body else SAVINGS


def _unstored(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in ONLY_STORED}


def _schedule(view: dict[str, Any]) -> dict[str, Any]:
    """Return a stored plan of set points as a preview takes it."""
    return {**view["target"], **{name: view[name] for name in SETPOINT_FIELDS}}


def _find(api: Suite, plan: str) -> Stored:
    """Return a stored plan of either kind.

    Raises:
        Refused: There is none, or not for this caller.
    """
    from libs.suite.api import Refused

    try:
        return Stored(SAVINGS, api.get(f"{SAVINGS}/{plan}"))
    except Refused as exc:
        if exc.status != 404:
            raise
    return Stored(SETPOINTS, api.get(f"{SETPOINTS}/{plan}"))


def _line(plan: Stored, words: Words) -> str:
    view = plan.view
    windows = " ".join(f"{one['start']}-{one['end']}" for one in view["windows"])
    if plan.kind == SETPOINTS:
        devices = len(view["device_ids"])
        values = f"{view['point']} {view['value']:g} / {view['value_after']:g}"
        what = words(f"{values}, devices: {devices}", f"{values},设备 {devices} 台")
    else:
        what = words(f"loads: {view['load_count']}", f"负载 {view['load_count']} 个")
    times = f"{view['first_date']}..{view['last_date']}  {windows} {view['zone']}"
    return f"{view['plan_id']}  {view['state']}  {view['name']}  {times}  {what}"


def _say_preview(found: dict[str, Any], words: Words, say: Say) -> None:
    """Say how many windows there are, the first of them, and what speaks against them."""
    is_switching = "load_ids" in found
    begin, end = ("off_at", "on_at") if is_switching else ("begin_at", "end_at")
    times = f"{found[f'first_{begin}'] or '-'}..{found[f'last_{end}'] or '-'}"
    if is_switching:
        who = words(f"loads: {len(found['load_ids'])}", f"负载 {len(found['load_ids'])} 个")
    else:
        who = words(f"devices: {len(found['device_ids'])}", f"设备 {len(found['device_ids'])} 台")
    say(words(f"windows: {found['count']}, {who}, {times}", f"时段 {found['count']} 个,{who},{times}"))
    for one in found["windows"][:SHOWN]:
        say(f"  {one['start_local']}  {one[begin]}  {one[end]}")
    _say_more(found["count"], words, say)
    for one in found.get("overlaps", ()):
        say(_overlap(one, words))
    for one in found.get("stays_on", ())[:SHOWN]:
        say(f"  {one['load_id']}  {one['guard']}: {words(one['message'], one['message_zh'])}")
    rule, rival = found.get("second_person_for"), found.get("forbidden_by")
    if rule is not None:
        why = words(rule["message"], rule["message_zh"])
        say(words(f"a second person has to approve it: {why}", f"须由第二人批准:{why}"))
    if rival is not None:
        other = f"{rival['plan_id']} ({rival['name']})"
        say(words(f"cannot be approved while {other} is in force", f"{other} 生效期间不可批准"))


def _overlap(one: dict[str, Any], words: Words) -> str:
    other, loads, windows = f"{one['plan_id']} ({one['name']})", one["load_count"], one["windows"]
    where = words(f"windows: {windows}, loads: {loads}", f"时段 {windows} 个,负载 {loads} 个")
    if one["outcome"] == "yields":
        return words(f"gives way to {other}: {where}", f"让位于 {other}:{where}")
    return words(f"goes before {other}: {where}", f"优先于 {other}:{where}")


def _occurrence(one: dict[str, Any], words: Words) -> str:
    went, came = one["went_off_at"] or "-", one["came_on_at"] or "-"
    seen = words(f"off {went}  on {came}", f"已关断 {went}  已唤醒 {came}")
    return f"  {one['load_id']}  {one['off_at']}..{one['on_at']}  {one['state']} {one['reason']}".rstrip() + f"  {seen}"


def _window(one: dict[str, Any], words: Words) -> str:
    orders = " ".join([*one["begin_group_ids"], *one["end_group_ids"]]) or "-"
    count = len(one["set_in"])
    done = words(f"set in: {count}, orders {orders}", f"已设定 {count} 台,命令 {orders}")
    return f"  {one['begin_at']}..{one['end_at']}  {one['state']} {one['reason']}".rstrip() + f"  {done}"


def _say_more(count: int, words: Words, say: Say) -> None:
    if count > SHOWN:
        say(words(f"  and {count - SHOWN} more", f"  另有 {count - SHOWN} 个"))


def _figures(total: dict[str, Any], words: Words) -> str:
    saved, covered = total["saved_kwh"], total["covered"]
    amount = words("saved: not known", "节电量未知") if saved is None else words(
        f"saved {saved:.2f} kWh, known of {covered:.0%} of the time", f"节电 {saved:.2f} 千瓦时,数据覆盖 {covered:.0%}"
    )  # fmt: skip
    return words(
        f"{total['switched']} of {total['count']} shutdowns, {total['hours_off']:.1f} h off, {amount}",
        f"{total['count']} 次中可关断 {total['switched']} 次,关断 {total['hours_off']:.1f} 小时,{amount}",
    )
