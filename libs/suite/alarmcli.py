"""The commands ``wattring alarms …``; what they do is in ``alarms``, which is loaded when one of them runs."""

from typing import Annotated

import typer

from libs.suite.calls import Say, Settings
from libs.suite.words import Words


def add_alarms(app: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    """Add ``wattring alarms``.

    Args:
        app: The command line.
        words: Its language.
        settings: Reads the settings, when a command runs.
        say: Prints a line.
    """
    alarms = typer.Typer(
        help=words("look at alarms and take them up", "查看与处理告警"), no_args_is_help=True, rich_markup_mode=None
    )
    app.add_typer(alarms, name="alarms")
    one = typer.Argument(metavar="ALARM", help=words("id of the alarm", "告警编号"))
    at_site = typer.Option("--site", help=words("of these sites only", "仅这些站点"))

    @alarms.command("list", help=words("active alarms and history, the youngest first", "告警列表,最新在前"))
    def list_(
        state: Annotated[str, typer.Option(help="active, ended, all")] = "active",
        site: Annotated[list[str] | None, at_site] = None,
        level: Annotated[list[int] | None, typer.Option(min=1, max=4)] = None,
        signal: Annotated[str | None, typer.Option(help=words("code of the signal table", "信号编码"))] = None,
        limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    ) -> None:
        from libs.suite import alarms as shown

        if state not in ("active", "ended", "all"):
            raise typer.BadParameter("active, ended, all")
        shown.list_alarms(
            settings(),
            state=state,
            sites=site or [],
            levels=level or [],
            signal=signal,
            limit=limit,
            words=words,
            say=say,
        )

    @alarms.command(help=words("one alarm with its life and who was told", "告警详情、经过与通知情况"))
    def show(alarm_id: Annotated[str, one]) -> None:
        from libs.suite import alarms as shown

        shown.show(settings(), alarm_id, words=words, say=say)

    @alarms.command("ack", help=words("take alarms up", "确认告警"))
    def acknowledge(alarm_ids: Annotated[list[str], one], note: Annotated[str | None, typer.Option()] = None) -> None:
        from libs.suite import alarms as shown

        shown.acknowledge(settings(), alarm_ids, note=note, words=words, say=say)

    @alarms.command(help=words("write something about an alarm", "为告警写备注"))
    def note(alarm_id: Annotated[str, one], text: Annotated[str, typer.Argument(metavar="TEXT")]) -> None:
        from libs.suite import alarms as shown

        shown.note(settings(), alarm_id, text, words=words, say=say)

    @alarms.command(help=words("end an active alarm by hand", "人工清除告警"))
    def clear(alarm_id: Annotated[str, one], reason: Annotated[str, typer.Option()]) -> None:
        from libs.suite import alarms as shown

        shown.clear(settings(), alarm_id, reason=reason, words=words, say=say)

    @alarms.command(help=words("put an alarm aside for some hours", "搁置告警若干小时"))
    def shelve(
        alarm_id: Annotated[str, one],
        hours: Annotated[float, typer.Option(min=0.01)],
        reason: Annotated[str, typer.Option()],
    ) -> None:
        from libs.suite import alarms as shown

        shown.shelve(settings(), alarm_id, hours=hours, reason=reason, words=words, say=say, now=shown.now())

    @alarms.command(help=words("take an alarm off its shelf", "取消搁置"))
    def unshelve(alarm_id: Annotated[str, one]) -> None:
        from libs.suite import alarms as shown

        shown.unshelve(settings(), alarm_id, words=words, say=say)

    @alarms.command(help=words("say who sees to an alarm; nobody without --to", "指派处理人;不带 --to 则取消指派"))
    def assign(
        alarm_id: Annotated[str, one],
        to: Annotated[str | None, typer.Option()] = None,
        note: Annotated[str | None, typer.Option()] = None,
    ) -> None:
        from libs.suite import alarms as shown

        shown.assign(settings(), alarm_id, to=to, note=note, words=words, say=say)

    @alarms.command(help=words("counts, times and the load of operators", "告警统计、时长与值班负荷"))
    def stats(
        days: Annotated[float, typer.Option(min=0.01, max=400)] = 7.0,
        by: Annotated[
            str,
            typer.Option(help="level, signal, kind, site, region, end_reason, hour, day, hour_of_day, weekday"),
        ] = "signal",
        operators: Annotated[int, typer.Option(min=1, max=10_000)] = 1,
        top: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    ) -> None:
        from libs.suite import alarms as shown

        shown.statistics(
            settings(), days=days, by=by, operators=operators, top=top, words=words, say=say, now=shown.now()
        )

    _add_windows(alarms, words, settings, say)


def _add_windows(alarms: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    windows = typer.Typer(help=words("maintenance windows", "维护窗口"), no_args_is_help=True, rich_markup_mode=None)
    alarms.add_typer(windows, name="windows")

    @windows.command("list", help=words("maintenance windows, the latest begin first", "维护窗口列表"))
    def list_(
        site: Annotated[list[str] | None, typer.Option(help=words("of these sites only", "仅这些站点"))] = None,
    ) -> None:
        from libs.suite import alarms as shown

        shown.list_windows(settings(), sites=site or [], words=words, say=say)

    @windows.command("open", help=words("set a window up", "建立维护窗口"))
    def open_(
        site_id: Annotated[str, typer.Argument(metavar="SITE", help=words("id of the site", "站点编号"))],
        hours: Annotated[float, typer.Option(min=0.01)],
        reason: Annotated[str, typer.Option()],
        start: Annotated[
            str | None, typer.Option(help=words("RFC 3339 with offset; default now", "RFC 3339 带偏移,默认现在"))
        ] = None,
        device: Annotated[list[str] | None, typer.Option(help=words("these devices only", "仅这些设备"))] = None,
    ) -> None:
        from datetime import datetime

        from libs.suite import alarms as shown

        try:
            at = shown.now() if start is None else datetime.fromisoformat(start)
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from exc
        if at.tzinfo is None:
            raise typer.BadParameter(words("--start needs an offset", "--start 需带时区偏移"))
        shown.open_window(
            settings(),
            site_id,
            start=at,
            hours=hours,
            devices=device or [],
            reason=reason,
            words=words,
            say=say,
        )

    @windows.command("end", help=words("end a window now, or call it off", "立即结束或取消维护窗口"))
    def end(window_id: Annotated[str, typer.Argument(metavar="WINDOW")]) -> None:
        from libs.suite import alarms as shown

        shown.end_window(settings(), window_id, words=words, say=say)
