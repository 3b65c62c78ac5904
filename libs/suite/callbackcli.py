"""``wattring callbacks …``: who is called when something happens, and whether the calls arrive."""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import typer

from libs.suite.calls import Say, Settings
from libs.suite.words import Words


class Suite(Protocol):
    """The API of the suite."""

    def get(self, path: str, **params: Any) -> Any:
        """Return the answer of a GET."""

    def post(self, path: str, body: Any = None) -> Any:
        """Return the answer of a POST."""

    def delete(self, path: str) -> Any:
        """Return the answer of a DELETE."""


def add_callbacks(app: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    """Add ``wattring callbacks``.

    Args:
        app: The command line.
        words: Its language.
        settings: Reads the settings, when a command runs.
        say: Prints a line.
    """
    group = typer.Typer(
        help=words("signed calls to receivers when something happens", "事件回调"),
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.add_typer(group, name="callbacks")
    one = typer.Argument(metavar="CALLBACK", help=words("its id", "回调编号"))

    @group.command("list", help=words("who is called, and how it goes", "回调列表与状态"))
    def list_() -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            list_callbacks(api, words, say)

    @group.command(help=words("call an address; says its secret, this once", "新建回调,密钥仅显示一次"))
    def create(
        name: Annotated[str, typer.Argument(metavar="NAME")],
        url: Annotated[str, typer.Argument(metavar="URL")],
        types: Annotated[list[str], typer.Option("--type", help="command.result, occurrence.overdue, alarm.begin …")],
        site: Annotated[
            list[str] | None, typer.Option(help=words("site or region:<id>", "站点或 region:<编号>"))
        ] = None,
        actor: Annotated[
            list[str] | None, typer.Option(help=words("only what this one ordered", "仅该主体下发的命令"))
        ] = None,
        owner: Annotated[str | None, typer.Option(help="key:<id>, user:<name>")] = None,
        point: Annotated[
            list[str] | None, typer.Option(help=words("of readings only this point", "读数仅含该测点"))
        ] = None,
        kind: Annotated[
            list[str] | None, typer.Option(help=words("only devices of this kind", "仅该类型的设备"))
        ] = None,
    ) -> None:
        from libs.suite.api import LocalApi

        body = {
            "name": name, "url": url, "types": types, "sites": site, "actors": actor, "owner": owner,
            "points": point or None, "kinds": kind or None,
        }  # fmt: skip
        with LocalApi(settings()) as api:
            created = api.post("callbacks", body)
            say(words(f"created: {created['id']}", f"已新建:{created['id']}"))
            say(words(f"secret, shown this once: {created['secret']}", f"密钥(仅显示一次):{created['secret']}"))

    @group.command(help=words("what was sent, and every attempt", "投递记录与每次尝试"))
    def log(
        callback_id: Annotated[str, one],
        state: Annotated[str | None, typer.Option(help="queued, retrying, refused, delivered, given_up")] = None,
        limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            show_log(api, words, say, callback_id, state=state, limit=limit)

    @group.command(help=words("call now with an event that means nothing", "发送测试回调"))
    def test(callback_id: Annotated[str, one]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            raise typer.Exit(try_one(api, words, say, callback_id))

    @group.command(help=words("stop calling; what happens is queued", "暂停回调,事件继续排队"))
    def pause(callback_id: Annotated[str, one]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            say(_line(api.post(f"callbacks/{callback_id}/pause"), words))

    @group.command(help=words("call again", "恢复回调"))
    def resume(callback_id: Annotated[str, one]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            say(_line(api.post(f"callbacks/{callback_id}/resume"), words))

    @group.command(
        help=words("give a new secret, shown this once; both sign for a day", "更换密钥,仅显示一次;新旧密钥并用一天")
    )
    def rotate(callback_id: Annotated[str, one]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            found = api.post(f"callbacks/{callback_id}/rotate-secret", {})
            say(words(f"secret, shown this once: {found['secret']}", f"密钥(仅显示一次):{found['secret']}"))
            until = found["previous_until"]
            say(words(f"the old one counts until {until}", f"旧密钥有效至 {until}"))

    @group.command(help=words("send once more what was given up since a time", "重发某时刻起放弃的事件"))
    def replay(
        callback_id: Annotated[str, one],
        since: Annotated[str, typer.Option(help=words("RFC 3339 with offset", "RFC 3339 带偏移"))],
        everything: Annotated[bool, typer.Option("--all", help=words("also what arrived", "包括已送达的"))] = False,
    ) -> None:
        from libs.suite.api import LocalApi

        states = ["given_up", "delivered"] if everything else ["given_up"]
        with LocalApi(settings()) as api:
            queued = api.post(f"callbacks/{callback_id}/replay", {"from": since, "states": states})["queued"]
            say(words(f"{queued} queued again", f"已重新排队 {queued} 条"))

    @group.command(help=words("call no more", "删除回调"))
    def remove(callback_id: Annotated[str, one]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            api.delete(f"callbacks/{callback_id}")
            say(words("removed", "已删除"))


def list_callbacks(api: Suite, words: Words, say: Say) -> None:
    """Say one line for each endpoint."""
    found: Sequence[dict[str, Any]] = api.get("callbacks")
    for one in found:
        say(_line(one, words))
    if not found:
        say(words("nobody is called", "没有回调"))


def show_log(api: Suite, words: Words, say: Say, callback_id: str, *, state: str | None, limit: int) -> None:
    """Say one line for each event, and one for each attempt, the youngest event first."""
    page = api.get(f"callbacks/{callback_id}/deliveries", state=state, limit=limit)
    for one in page["items"]:
        name = f"{one['type']}  {one['resource']} #{one['sequence']}"
        say(f"{one['queued_at']}  {name}  {one['state']}  {one['event_id']}")
        for attempt in one["log"]:
            status = "" if attempt["status"] is None else f" {attempt['status']}"
            error = "" if attempt["error"] is None else f"  {attempt['error']}"
            say(f"  {attempt['at']}  {attempt['outcome']}{status}  {attempt['took_s']:.3f} s{error}")
    if not page["items"]:
        say(words("nothing", "没有记录"))


def try_one(api: Suite, words: Words, say: Say, callback_id: str) -> int:
    """Say what came of a test; return the exit status."""
    found = api.post(f"callbacks/{callback_id}/test")
    if found["outcome"] == "delivered":
        say(words(f"it works ({found['took_s']:.3f} s)", f"回调正常({found['took_s']:.3f} 秒)"))
        return 0
    say(words(f"it does not: {found['error']}", f"回调失败:{found['error']}"))
    return 1


def _line(one: dict[str, Any], words: Words) -> str:
    parts = [one["id"], one["name"], one["owner"], words(one["state"], one["state_zh"])]
    if one["breaker_open"]:
        parts.append(words("breaker open", "熔断"))
    parts.append(words(f"{one['waiting']} waiting", f"待发 {one['waiting']}"))
    if one["error"] is not None:
        parts.append(one["error"])
    return "  ".join(parts)
