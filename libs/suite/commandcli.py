"""``wattring command …``: switching loads off and on at once, and how far an order is."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from libs.suite.calls import Say, Settings, Suite
from libs.suite.words import Words

SHOWN = 50
"""Loads that are listed; of the others the counts are enough."""


def add_commands(app: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    """Add ``wattring command``.

    Args:
        app: The command line.
        words: Its language.
        settings: Reads the settings, when a command runs.
        say: Prints a line.
    """
    group = typer.Typer(
        help=words("switch loads off and on, see how far orders are", "开关负载与命令进度"), no_args_is_help=True,
        rich_markup_mode=None,
    )  # fmt: skip
    app.add_typer(group, name="command")
    load_ = Annotated[list[str] | None, typer.Option("--load", help=words("a load; may be repeated", "负载,可多次"))]
    device_ = Annotated[
        list[str] | None, typer.Option("--device", help=words("a breaker; may be repeated", "断路器,可多次"))
    ]
    site_ = Annotated[str | None, typer.Option("--site", help=words("all loads of a site", "局站的全部负载"))]
    region_ = Annotated[str | None, typer.Option("--region", help=words("all loads of a region", "区域的全部负载"))]
    tag_ = Annotated[str | None, typer.Option("--tag", help=words("all loads with a tag", "带标签的全部负载"))]
    reason_ = Annotated[str | None, typer.Option("--reason", help=words("why", "原因"))]

    @group.command("off", help=words("switch loads off, with the time of their wake-up", "关断负载(须给出唤醒时间)"))
    def off(
        minutes: Annotated[float, typer.Option("--minutes", min=1, help=words("until they are woken", "多久后唤醒"))],
        load: load_ = None,
        device: device_ = None,
        site: site_ = None,
        region: region_ = None,
        tag: tag_ = None,
        reason: reason_ = None,
    ) -> None:
        restore_at = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
        _order(
            {"action": "open", "restore_at": restore_at, "reason": reason, **_where(load, device, site, region, tag)}
        )

    @group.command("on", help=words("switch loads on", "恢复负载供电"))
    def on(
        load: load_ = None,
        device: device_ = None,
        site: site_ = None,
        region: region_ = None,
        tag: tag_ = None,
        reason: reason_ = None,
    ) -> None:
        _order({"action": "close", "reason": reason, **_where(load, device, site, region, tag)})

    @group.command("show", help=words("how far an order is", "命令进度"))
    def show(order: Annotated[str, typer.Argument(metavar="ORDER")]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            show_commands(api, words, say, order)

    def _order(body: dict[str, Any]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            order_commands(api, words, say, body)


def order_commands(api: Suite, words: Words, say: Say, body: dict[str, Any]) -> None:
    """Order a switching, and say who was refused and how to look after the others."""
    group = api.post("commands", {name: value for name, value in body.items() if value is not None})
    _say_group(words, say, group)
    order = group["group_id"]
    say(words(f"ordered: wattring command show {order}", f"已下发:wattring command show {order}"))


def show_commands(api: Suite, words: Words, say: Say, order: str) -> None:
    """Say how far an order is, load by load."""
    group = api.get(f"commands/groups/{order}")
    _say_group(words, say, group)
    for one in group["commands"][:SHOWN]:
        say(f"  {one['load_id']}  {one['state']} {one['reason']}".rstrip())
    if len(group["commands"]) > SHOWN:
        more = len(group["commands"]) - SHOWN
        say(words(f"  and {more} more", f"  另有 {more} 个"))


def _say_group(words: Words, say: Say, group: Any) -> None:
    progress = group["progress"]
    states = "  ".join(f"{state} {count}" for state, count in sorted(progress["by_state"].items()))
    say(
        f"{group['action']}  {group['state']}  {progress['done']}/{progress['total']}  {states}  "
        f"{words('refused', '拒绝')} {progress['refused']}  "
        f"{words('expected by', '预计完成')} {group['expected_by'] or '-'}"
    )
    for one in group["refused"][:SHOWN]:
        say(f"  {one['load_id']}  {one['guard']}  {words(one['message'], one['message_zh'])}")


def _where(
    load: list[str] | None, device: list[str] | None, site: str | None, region: str | None, tag: str | None
) -> dict[str, Any]:
    return {"load_ids": load or None, "device_ids": device or None, "site_id": site, "region_id": region, "tag": tag}
