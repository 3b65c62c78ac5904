"""``wattring settings …``: what is set inside devices, and writing it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from libs.suite.words import Words

if TYPE_CHECKING:
    from libs.common.settings import CommonSettings

Settings = Callable[[], "CommonSettings"]
Say = Callable[[str], None]


class Suite(Protocol):
    """The API of the suite."""

    def get(self, path: str, **params: Any) -> Any:
        """Return the answer of a GET."""

    def post(self, path: str, body: Any = None) -> Any:
        """Return the answer of a POST."""


def add_settings(app: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    """Add ``wattring settings``.

    Args:
        app: The command line.
        words: Its language.
        settings: Reads the settings, when a command runs.
        say: Prints a line.
    """
    group = typer.Typer(
        help=words("thresholds and reporting periods inside devices", "设备内的定值与上报周期"),
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

    @group.command(help=words("how far an order is", "设置命令的经过"))
    def show(order: Annotated[str, typer.Argument(metavar="ORDER")]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            show_setting(api, words, say, order)


def list_settings(api: Suite, words: Words, say: Say, *, device: str | None, differs: bool) -> None:
    """Say one line for each setting."""
    cursor: str | None = None
    count = 0
    while True:
        wanted = {"device": device, "differs": differs or None, "limit": 200, "cursor": cursor}
        page = api.get("alarm-rules/device-settings", **wanted)
        for one in page["items"]:
            mark = {True: words("DIFFERS", "不一致"), False: words("same", "一致"), None: "?"}[one["differs"]]
            say(
                f"{one['device_id']}  {one['point']}  {words('platform', '平台')} {_number(one['wanted'])}  "
                f"{words('device', '设备')} {_number(one['found'])} {one['unit'] or ''}  {mark}  {one['state']}"
            )
            count += 1
        cursor = page["next_cursor"]
        if cursor is None:
            break
    if not count:
        say(words("nothing", "没有符合条件的定值"))


def write_setting(
    api: Suite, words: Words, say: Say, *, device: str, point: str, value: float, unit: str | None, reason: str | None
) -> None:
    """Order a setting, and say how to look after it."""
    body = {"device_id": device, "point": point, "value": value, "unit": unit, "reason": reason}
    order = api.post("commands/settings", body)["setting_id"]
    say(words(f"ordered: wattring settings show {order}", f"已下发:wattring settings show {order}"))


def show_setting(api: Suite, words: Words, say: Say, order: str) -> None:
    """Say how far an order is."""
    one = api.get(f"commands/settings/{order}")
    say(
        f"{one['device_id']}  {one['point']} = {_number(one['value'])}  {one['state']} {one['reason']}  "
        f"{words('read back', '回读')} {_number(one['found'])}"
    )
    for step in one["history"]:
        say(f"  {step['at']}  {step['attempt']}  {step['state']} {step['reason']}  {_number(step['found'])}".rstrip())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
