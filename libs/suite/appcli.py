"""``wattring apps …``: what upstream applications may order, and what sites have opted out of."""

import json
from pathlib import Path
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

    def put(self, path: str, body: Any) -> Any:
        """Return the answer of a PUT."""


def add_apps(app: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    """Add ``wattring apps``.

    Args:
        app: The command line.
        words: Its language.
        settings: Reads the settings, when a command runs.
        say: Prints a line.
    """
    group = typer.Typer(
        help=words("what upstream applications may switch", "上层应用的关断权限"),
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.add_typer(group, name="apps")
    caller_help = words("key:<id of its API key>", "key:<API 密钥编号>")
    caller_ = typer.Argument(metavar="CALLER", help=caller_help)

    @group.command("key", help=words("create a key for an application", "为应用创建 API 密钥"))
    def key(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            create_key(api, words, say, name)

    @group.command("list", help=words("limits of all applications", "全部应用的权限"))
    def list_() -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            list_limits(api, words, say)

    @group.command(help=words("the versions of one application's limits", "某应用权限的各版本"))
    def show(caller: Annotated[str, caller_]) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            for one in api.get(f"guards/apps/{caller}"):
                say(_version(one))
                say(json.dumps(one["limits"], ensure_ascii=False, indent=2))

    @group.command("set", help=words("set an application's limits from a JSON file", "按 JSON 文件设置应用权限"))
    def set_(
        caller: Annotated[str, caller_],
        file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
        source: Annotated[str, typer.Option(help=words("agreement or order that says so", "依据的协议或文件"))],
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            put_limits(api, words, say, caller, file, source)

    @group.command(help=words("take an application's limits away: it may switch nothing", "取消应用权限"))
    def remove(
        caller: Annotated[str, caller_], reason: Annotated[str, typer.Option(help=words("why", "原因"))]
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            api.post(f"guards/apps/{caller}/remove", {"reason": reason})
            say(words(f"{caller} may switch nothing", f"{caller} 已无任何权限"))

    @group.command("opt-outs", help=words("sites that take no part, the youngest first", "退出上层应用关断的站点"))
    def opt_outs(site: Annotated[str | None, typer.Option(help=words("of this site only", "仅该站点"))] = None) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            list_opt_outs(api, words, say, site)

    @group.command("opt-out", help=words("let a site take no part for a time", "站点在一段时间内退出"))
    def opt_out(
        site: Annotated[str, typer.Argument(metavar="SITE")],
        until: Annotated[str, typer.Option(help=words("RFC 3339, with offset", "RFC 3339 时间,带时区"))],
        start: Annotated[str | None, typer.Option("--from", help=words("now by default", "默认为现在"))] = None,
        reason: Annotated[str, typer.Option(help=words("why", "原因"))] = "",
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            body = {"site_id": site, "from": start, "until": until, "reason": reason}
            one = api.post("guards/opt-outs", body)
            say(words(f"opted out: wattring apps opt-in {one['opt_out_id']}",
                      f"已退出,恢复:wattring apps opt-in {one['opt_out_id']}"))  # fmt: skip

    @group.command("opt-in", help=words("end an opt-out before its time", "提前结束退出"))
    def opt_in(
        opt_out: Annotated[str, typer.Argument(metavar="OPT_OUT")],
        reason: Annotated[str, typer.Option(help=words("why", "原因"))] = "",
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            one = api.post(f"guards/opt-outs/{opt_out}/end", {"reason": reason})
            say(words(f"{one['site_id']} takes part again", f"站点 {one['site_id']} 已恢复"))


def create_key(api: Suite, words: Words, say: Say, name: str) -> None:
    """Create an application's key and say it once."""
    made = api.post("api-keys", {"name": name, "scopes": ["control:app"]})
    say(words(f"secret, shown this once: {made['secret']}", f"密钥(仅显示一次):{made['secret']}"))
    say(words(f"it may switch nothing yet: wattring apps set key:{made['key_id']} FILE --source …",
              f"尚无任何权限:wattring apps set key:{made['key_id']} FILE --source …"))  # fmt: skip


def list_limits(api: Suite, words: Words, say: Say) -> None:
    """Say two lines for each application."""
    found = api.get("guards/apps")
    for one in found:
        limits = one["limits"]
        say(_version(one))
        lists = "  ".join(
            f"{name} {len(limits[name])}" for name in ("load_ids", "tags", "site_ids", "region_ids") if limits[name]
        )
        say(f"  {', '.join(limits['actions']) or '-'}  {lists or '-'}  max_off {limits['max_off']}  "
            f"{limits['orders_per_hour']}/h {limits['orders_per_day']}/d")  # fmt: skip
    if not found:
        say(words("no application may switch anything", "没有应用拥有权限"))


def put_limits(api: Suite, words: Words, say: Say, caller: str, file: Path, source: str) -> None:
    """Set an application's limits from a file.

    Raises:
        typer.BadParameter: The file is no JSON object.
    """
    try:
        limits = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        limits = None
    if not isinstance(limits, dict):
        raise typer.BadParameter(words(f"{file}: expected a JSON object", f"{file}:应为 JSON 对象"))
    row = api.put(f"guards/apps/{caller}", {"limits": limits, "source": source})
    say(words(f"in force: {_version(row)}", f"已生效:{_version(row)}"))


def list_opt_outs(api: Suite, words: Words, say: Say, site: str | None) -> None:
    """Say one line for each opt-out."""
    items = api.get("guards/opt-outs", site=site)["items"]
    for one in items:
        ended = "" if one["ended_at"] is None else words(f"ended {one['ended_at']}", f"已结束 {one['ended_at']}")
        say(f"{one['opt_out_id']}  {one['site_id']}  {one['from']} … {one['until']}  {one['declared_by']}  "
            f"{one['reason']}  {ended}".rstrip())  # fmt: skip
    if not items:
        say(words("nothing", "没有记录"))


def _version(row: dict[str, Any]) -> str:
    return f"{row['caller']}  {row['revision']}  {row['changed_at']}  {row['changed_by']}  {row['source']}"
