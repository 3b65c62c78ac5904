"""``wattring plan …``: what a plan would have switched and saved on past days."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import orjson
import typer

from libs.common.errors import InvalidInput
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


def add_plans(app: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    """Add ``wattring plan``.

    Args:
        app: The command line.
        words: Its language.
        settings: Reads the settings, when a command runs.
        say: Prints a line.
    """
    group = typer.Typer(help=words("savings plans", "节能策略"), no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group, name="plan")

    @group.callback()
    def plans() -> None:
        """Keep ``simulate`` a word of its own."""

    @group.command(help=words("what a plan would have switched and saved on past days", "用历史数据仿真策略"))
    def simulate(
        plan: Annotated[
            str,
            typer.Argument(metavar="PLAN", help=words("id of a plan, or a file (JSON)", "策略编号,或策略文件(JSON)")),
        ],
        first: Annotated[
            str | None, typer.Option("--from", help=words("first date, of a stored plan", "起始日期(已存策略)"))
        ] = None,
        last: Annotated[
            str | None, typer.Option("--to", help=words("last date, of a stored plan", "结束日期(已存策略)"))
        ] = None,
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            simulate_plan(api, words, say, plan=plan, first=first, last=last)


def simulate_plan(api: Suite, words: Words, say: Say, *, plan: str, first: str | None, last: str | None) -> None:
    """Say what a stored plan, or the one of a file, would have done.

    Raises:
        InvalidInput: The file is no JSON.
    """
    path = Path(plan)
    if path.is_file():
        try:
            body = orjson.loads(path.read_bytes())
        except orjson.JSONDecodeError as exc:
            raise InvalidInput(f"{path}: no JSON: {exc}", message_zh=f"{path}:不是 JSON:{exc}") from exc
        found: dict[str, Any] = api.post("plans/simulate", body)
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


def _figures(total: dict[str, Any], words: Words) -> str:
    saved, covered = total["saved_kwh"], total["covered"]
    amount = words("saved: not known", "节电量未知") if saved is None else words(
        f"saved {saved:.2f} kWh, known of {covered:.0%} of the time", f"节电 {saved:.2f} 千瓦时,数据覆盖 {covered:.0%}"
    )  # fmt: skip
    return words(
        f"{total['switched']} of {total['count']} shutdowns, {total['hours_off']:.1f} h off, {amount}",
        f"{total['count']} 次中可关断 {total['switched']} 次,关断 {total['hours_off']:.1f} 小时,{amount}",
    )
