"""``wattring settings …``: what is set inside devices, and setting it in one or in many; clocks and restarts."""

from typing import Annotated, Any

import typer

from libs.suite.calls import Say, Settings, Suite, items
from libs.suite.words import Words


def add_settings(app: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    """Add ``wattring settings``.

    Args:
        app: The command line.
        words: Its language.
        settings: Reads the settings, when a command runs.
        say: Prints a line.
    """
    group = typer.Typer(
        help=words(
            "set points, thresholds, periods and clocks of devices; restarts", "设备的设定值、定值、周期、校时与重启"
        ),
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.add_typer(group, name="settings")

    @group.command(
        "list", help=words("what devices are set to, marked where it differs", "设备定值,标出与平台不一致处")
    )
    def list_(
        device: Annotated[str | None, typer.Option(help=words("of this device only", "仅该设备"))] = None,
        differs: Annotated[bool, typer.Option("--differs", help=words("only what differs", "仅不一致的"))] = False,
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            list_settings(api, words, say, device=device, differs=differs)

    @group.command("set", help=words("write a value into a device", "向设备写入定值"))
    def set_(
        device: Annotated[str, typer.Argument(metavar="DEVICE")],
        point: Annotated[str, typer.Argument(metavar="POINT", help="setting_overvoltage, setting_report_period …")],
        value: Annotated[float, typer.Argument(metavar="VALUE")],
        unit: Annotated[str | None, typer.Option(help=words("of the value; checked", "数值单位,用于核对"))] = None,
        reason: Annotated[str | None, typer.Option(help=words("why", "原因"))] = None,
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            write_setting(api, words, say, device=device, point=point, value=value, unit=unit, reason=reason)

    device_ = Annotated[
        list[str] | None, typer.Option("--device", help=words("a device; may be repeated", "设备,可多次"))
    ]
    site_ = Annotated[str | None, typer.Option("--site", help=words("all devices of a site", "局站的全部设备"))]
    region_ = Annotated[str | None, typer.Option("--region", help=words("all devices of a region", "区域的全部设备"))]
    tag_ = Annotated[str | None, typer.Option("--tag", help=words("all devices with a tag", "带标签的全部设备"))]
    kind_ = Annotated[str | None, typer.Option("--kind", help=words("of these, this kind", "其中该类别的设备"))]
    profile_ = Annotated[
        str | None, typer.Option("--profile", help=words("of these, this profile", "其中该模板的设备"))
    ]
    reason_ = Annotated[str | None, typer.Option("--reason", help=words("why", "原因"))]
    unit_ = Annotated[str | None, typer.Option("--unit", help=words("of the value; checked", "数值单位,用于核对"))]

    @group.command("set-many", help=words("set the same in many devices", "向多台设备写入同一设定"))
    def set_many(
        point: Annotated[str, typer.Argument(metavar="POINT", help="temperature_setpoint, setting_overvoltage …")],
        value: Annotated[float, typer.Argument(metavar="VALUE")],
        device: device_ = None,
        site: site_ = None,
        region: region_ = None,
        tag: tag_ = None,
        kind: kind_ = None,
        profile: profile_ = None,
        unit: unit_ = None,
        reason: reason_ = None,
    ) -> None:
        what = {"point": point, "value": value, "unit": unit, "reason": reason}
        order_many({**what, **_where(device, site, region, tag, kind, profile)})

    @group.command("clock", help=words("set the clocks of devices to ours", "校准设备时钟"))
    def clock(
        device: device_ = None,
        site: site_ = None,
        region: region_ = None,
        tag: tag_ = None,
        kind: kind_ = None,
        profile: profile_ = None,
        reason: reason_ = None,
    ) -> None:
        order_many({"action": "set_clock", "reason": reason, **_where(device, site, region, tag, kind, profile)})

    @group.command(
        "restart", help=words("restart devices; refused while a load behind one is off", "重启设备;其负载关断期间拒绝")
    )
    def restart(
        device: device_ = None,
        site: site_ = None,
        region: region_ = None,
        tag: tag_ = None,
        kind: kind_ = None,
        profile: profile_ = None,
        reason: reason_ = None,
    ) -> None:
        order_many({"action": "restart", "reason": reason, **_where(device, site, region, tag, kind, profile)})

    def order_many(body: dict[str, Any]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            order_settings(api, words, say, body)

    @group.command("progress", help=words("how far an order for many is", "多设备设置命令的进度"))
    def progress(order: Annotated[str, typer.Argument(metavar="ORDER")]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            show_settings(api, words, say, order)

    @group.command("approve", help=words("agree as the second person", "作为第二人批准"))
    def approve(order: Annotated[str, typer.Argument(metavar="ORDER")]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            api.post(f"commands/settings/groups/{order}/approve")
            show_settings(api, words, say, order)

    @group.command("rules", help=words("limits of set points, with their source", "设定值限值及其依据"))
    def rules(
        device: Annotated[
            str | None, typer.Option(help=words("those that hold for a device", "对该设备有效的"))
        ] = None,
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            list_rules(api, words, say, device)

    @group.command(help=words("how far an order is", "设置命令的经过"))
    def show(order: Annotated[str, typer.Argument(metavar="ORDER")]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            show_setting(api, words, say, order)


def list_settings(api: Suite, words: Words, say: Say, *, device: str | None, differs: bool) -> None:
    """Say one line for each setting."""
    count = 0
    for one in items(api, "alarm-rules/device-settings", device=device, differs=differs or None, limit=200):
        mark = {True: words("DIFFERS", "不一致"), False: words("same", "一致"), None: "?"}[one["differs"]]
        say(
            f"{one['device_id']}  {one['point']}  {words('platform', '平台')} {_number(one['wanted'])}  "
            f"{words('device', '设备')} {_number(one['found'])} {one['unit'] or ''}  {mark}  {one['state']}"
        )
        count += 1
    if not count:
        say(words("nothing", "没有符合条件的定值"))


def write_setting(
    api: Suite, words: Words, say: Say, *, device: str, point: str, value: float, unit: str | None, reason: str | None
) -> None:
    """Order a setting, and say how to look after it."""
    body = {"device_id": device, "point": point, "value": value, "unit": unit, "reason": reason}
    order = api.post("commands/settings", body)["setting_id"]
    say(words(f"ordered: wattring settings show {order}", f"已下发:wattring settings show {order}"))


def order_settings(api: Suite, words: Words, say: Say, body: dict[str, Any]) -> None:
    """Order the same for many devices, and say who was refused and how to look after the others."""
    said = {name: value for name, value in body.items() if value is not None}
    group = api.post("commands/settings/groups", said)
    _say_group(words, say, group)
    order = group["group_id"]
    say(words(f"ordered: wattring settings progress {order}", f"已下发:wattring settings progress {order}"))


def show_settings(api: Suite, words: Words, say: Say, order: str) -> None:
    """Say how far an order for many is, device by device."""
    group = api.get(f"commands/settings/groups/{order}")
    _say_group(words, say, group)
    for one in group["settings"]:
        say(f"  {one['device_id']}  {one['state']} {one['reason']}  {_number(one['found'])}".rstrip())


def _say_group(words: Words, say: Say, group: Any) -> None:
    progress = group["progress"]
    what = group["action"] if group["point"] is None else f"{group['point']} = {_number(group['value'])}"
    states = "  ".join(f"{state} {count}" for state, count in sorted(progress["by_state"].items()))
    say(
        f"{what}  {group['state']}  {progress['done']}/{progress['total']}  {states}  "
        f"{words('refused', '拒绝')} {progress['refused']}  "
        f"{words('expected by', '预计完成')} {group['expected_by'] or '-'}"
    )
    for one in group["refused"]:
        say(f"  {one['device_id']}  {one['guard']}  {words(one['message'], one['message_zh'])}")


def list_rules(api: Suite, words: Words, say: Say, device: str | None) -> None:
    """Say the rules for set points, one a line."""
    found = api.get("guards/setpoints", device=device)
    for one in found:
        limits = "  ".join(f"{name} {_number(one[name])}" for name in ("min", "max") if one[name] is not None)
        places = " ".join(one["site_kinds"]) or words("all sites", "全部局站")
        say(
            f"{one['rule']}  {one['point']}  {limits}  {one['season'][0]}..{one['season'][1]}  {places}  "
            f"{one['effect']}  {words(one['source'], one['source_zh'])}"
        )
    if not found:
        say(words("none", "没有规则"))


def show_setting(api: Suite, words: Words, say: Say, order: str) -> None:
    """Say how far an order is."""
    one = api.get(f"commands/settings/{order}")
    what = one["action"] if one["point"] is None else f"{one['point']} = {_number(one['value'])}"
    say(
        f"{one['device_id']}  {what}  {one['state']} {one['reason']}  "
        f"{words('read back', '回读')} {_number(one['found'])}"
    )
    for step in one["history"]:
        say(f"  {step['at']}  {step['attempt']}  {step['state']} {step['reason']}  {_number(step['found'])}".rstrip())


def _where(
    device: list[str] | None,
    site: str | None,
    region: str | None,
    tag: str | None,
    kind: str | None,
    profile: str | None,
) -> dict[str, Any]:
    return {
        "device_ids": device or None, "site_id": site, "region_id": region, "tag": tag, "kind": kind,
        "profile": profile,
    }  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
