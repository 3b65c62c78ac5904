"""The command ``wattring``. What a command needs is loaded when it runs, so that ``--help`` answers at once."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from libs.common.errors import InvalidFile, PlatformError
from libs.suite.alarmcli import add_alarms
from libs.suite.appcli import add_apps
from libs.suite.attestcli import add_attestations
from libs.suite.auditcli import add_audit
from libs.suite.callbackcli import add_callbacks
from libs.suite.commandcli import add_commands
from libs.suite.feedcli import add_feeds
from libs.suite.moneycli import add_money
from libs.suite.plancli import add_plans
from libs.suite.settingcli import add_settings
from libs.suite.wakecli import add_wake
from libs.suite.words import Words, words_for

if TYPE_CHECKING:
    from libs.common.settings import CommonSettings

SERVICES: dict[str, tuple[str, str]] = {
    "ingest": ("run ingest alone: devices, registry, history", "单独运行采集服务:设备、台账、历史"),
    "alarm": ("run alarm alone: rules, alarms, faults", "单独运行告警服务:规则、告警、故障"),
    "control": ("run control alone: plans, commands, guards", "单独运行控制服务:策略、命令、闭锁"),
    "carbon": ("run carbon alone: energy, cost, emissions", "单独运行碳核算服务:能耗、费用、排放"),
    "export": ("run export alone: supervision centre, callbacks", "单独运行上报服务:监控中心、回调"),
    "gateway": ("run gateway alone: sign-in, API, page", "单独运行网关:登录、接口、页面"),
}
"""Written out here because loading the settings would make ``--help`` three times slower."""


def main() -> None:
    """Run the command; an error that was raised on purpose is a line, not a traceback."""
    words = words_for(_lang_option(sys.argv[1:]))
    try:
        build(words)()
    except InvalidFile as exc:
        print(words(exc.message, exc.message_zh or exc.message), file=sys.stderr)
        sys.exit(2)
    except PlatformError as exc:
        print(f"wattring: {words(exc.message, exc.message_zh or exc.message)}", file=sys.stderr)
        sys.exit(1)


def build(words: Words) -> typer.Typer:
    """Return the command line in one language."""
    app = typer.Typer(
        name="wattring",
        help=words("Wattring: energy data and carbon platform", "Wattring:能源数据与碳管理平台"),
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def language(
        lang: Annotated[
            str | None, typer.Option(help=words("en or zh; default from LANG", "en 或 zh,默认取自 LANG"))
        ] = None,
    ) -> None:
        """Options of every command; --lang was read before the texts were chosen."""

    _add_running(app, words)
    _add_administration(app, words)
    _add_line(app, words)
    _add_profile(app, words)
    _add_pull(app, words)
    _add_fault(app, words)
    _add_signals(app, words)
    add_alarms(app, words, _settings, _say)
    add_settings(app, words, _settings, _say)
    add_money(app, words, _settings, _say)
    add_commands(app, words, _settings, _say)
    add_audit(app, words, _settings, _say)
    add_attestations(app, words, _settings, _say)
    add_apps(app, words, _settings, _say)
    add_plans(app, words, _settings, _say)
    add_callbacks(app, words, _settings, _say)
    add_feeds(app, words, _settings, _say)
    add_wake(app, words, _settings, _say)
    _add_services(app, words)
    return app


def _add_running(app: typer.Typer, words: Words) -> None:
    @app.command(help=words("start the whole suite on this machine", "在本机启动全部服务"))
    def up(
        demo: Annotated[bool, typer.Option("--demo", help=words("with a simulated field", "同时运行模拟现场"))] = False,
    ) -> None:
        import asyncio

        from libs.suite.supervisor import Supervisor

        supervisor = Supervisor(_settings(), demo=demo, words=words, say=_say)
        raise typer.Exit(asyncio.run(supervisor.run()))

    @app.command(help=words("stop the suite that runs on the data folder", "停止使用该数据目录的服务"))
    def down() -> None:
        from libs.suite.stopping import stop_suite

        stop_suite(_settings(), words, _say)

    @app.command("demo-report", help=words("show the demonstration's story as a table", "以表格显示演示过程"))
    def demo_report(
        wait: Annotated[
            float, typer.Option(help=words("seconds to wait for steps still to come", "等待未完成步骤的秒数"))
        ] = 0.0,
        as_json: Annotated[bool, typer.Option("--json", help=words("for programs", "供程序读取"))] = False,
    ) -> None:
        from libs.suite.demo_report import show

        raise typer.Exit(show(_settings(), words, wait_s=wait, as_json=as_json))


def _add_administration(app: typer.Typer, words: Words) -> None:
    @app.command(help=words("bring the database schemas up to date", "更新数据库结构"))
    def migrate(
        phase: Annotated[
            str,
            typer.Option(
                help=words(
                    "pre: beside the old release; post: once nothing of it runs",
                    "pre:旧版本仍在运行;post:旧版本已全部停止",
                )
            ),
        ] = "pre",
        service: Annotated[list[str] | None, typer.Option(help=words("only these schemas", "仅处理这些结构"))] = None,
    ) -> None:
        import asyncio

        from libs.common import migrations

        if phase not in ("pre", "post"):
            raise typer.BadParameter("pre, post")
        url = _database_url(words)
        applied = asyncio.run(_reaching_the_database(url, migrations.migrate(url, service, phase=phase)))  # type: ignore[arg-type]  # checked above
        for name in applied:
            _say(name)
        _say(words(f"{len(applied)} changes applied", f"已执行 {len(applied)} 项变更"))

    @app.command(help=words("create missing topics and list all", "创建缺少的主题并列出全部"))
    def topics() -> None:
        import asyncio

        from libs.suite.doctor import settings_with_embedded_database
        from libs.suite.topics import create_and_list

        for line in asyncio.run(create_and_list(settings_with_embedded_database(_settings()))):
            _say(line)

    @app.command("import", help=words("import a registry file (YAML), all of it or nothing", "导入台账文件(YAML)"))
    def import_(
        file: Annotated[Path, typer.Argument()],
    ) -> None:
        from libs.suite.importing import import_file

        import_file(_settings(), file, words, _say)

    @app.command(
        "import-readings",
        help=words(
            "import an archive of readings of any size (CSV, JSON lines, Parquet); started again it goes on",
            "导入任意大小的历史读数文件(CSV、JSON 行、Parquet),中断后重新执行即续传",
        ),
    )
    def import_readings(
        file: Annotated[Path, typer.Argument(dir_okay=False)],
        timezone: Annotated[
            str | None, typer.Option(help=words("of times without an offset", "无偏移时间的时区"))
        ] = None,
        check: Annotated[bool, typer.Option(help=words("check only, take nothing", "仅检查,不导入"))] = False,
    ) -> None:
        from libs.suite.api import LocalApi
        from libs.suite.archives import run

        with LocalApi(_settings()) as api:
            run(file, words, _say, api, timezone=timezone, dry_run=check)

    @app.command(help=words("examine this machine and say how to mend what is wrong", "检查本机环境并给出修复办法"))
    def doctor() -> None:
        import asyncio

        from libs.suite.doctor import examine

        findings = asyncio.run(examine(_settings(), words))
        marks = {"good": "ok  ", "doubtful": "warn", "bad": "BAD "}
        for finding in findings:
            _say(f"{marks[finding.level]}  {finding.what}: {finding.detail}")
            if finding.mend:
                _say(f"      -> {finding.mend}")
        raise typer.Exit(1 if any(finding.level == "bad" for finding in findings) else 0)

    @app.command(help=words("create the service keys that are missing in a folder", "在目录中创建缺少的服务密钥"))
    def keys(folder: Annotated[Path, typer.Argument(file_okay=False)]) -> None:
        from libs.common.tokens import ISSUERS, KeyRing

        KeyRing.create(folder)
        _say(words(f"keys of {', '.join(ISSUERS)} are in {folder}", f"{', '.join(ISSUERS)} 的密钥位于 {folder}"))

    @app.command(help=words("print the version", "显示版本"))
    def version() -> None:
        from importlib.metadata import version as installed

        _say(f"wattring {installed('wattring')}")


def _add_profile(app: typer.Typer, words: Words) -> None:
    profile = typer.Typer(
        help=words("look at device profiles", "查看设备模板"), no_args_is_help=True, rich_markup_mode=None
    )
    app.add_typer(profile, name="profile")

    @profile.command(help=words("read every point of a profile from a live device", "用真实设备逐点测试设备模板"))
    def test(
        profile: Annotated[str, typer.Argument(help=words("name, or a .yaml file", "模板名或 .yaml 文件"))],
        endpoint: Annotated[str, typer.Argument(help=words("host:port, or a serial device", "主机:端口,或串口设备"))],
        address: Annotated[str | None, typer.Option(help=words("unit id or meter address", "单元号或表地址"))] = None,
        kind: Annotated[str, typer.Option(help="tcp, rtu_over_tcp, serial")] = "tcp",
        baud: Annotated[int | None, typer.Option(min=50)] = None,
        parity: Annotated[str | None, typer.Option(help="N, E, O")] = None,
        timeout_s: Annotated[float, typer.Option(min=0.1, max=60)] = 1.0,
    ) -> None:
        from libs.suite.profiletest import KINDS, Device, try_profile

        if kind not in KINDS:
            raise typer.BadParameter(", ".join(KINDS))
        device = Device(kind, endpoint, address, baud, parity, timeout_s)
        fits = try_profile(profile, device, _settings().profile_dirs, words, _say)
        raise typer.Exit(0 if fits else 1)


def _add_pull(app: typer.Typer, words: Words) -> None:
    pull = typer.Typer(
        help=words("look at how other systems are read", "查看第三方数据拉取"),
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.add_typer(pull, name="pull")
    file = typer.Argument(dir_okay=False, help=words("pull file", "拉取配置文件"))

    @pull.command(help=words("check pull files without calling anybody", "校验拉取配置,不访问数据源"))
    def check(files: Annotated[list[Path], file]) -> None:
        from libs.suite import pulltest

        pulltest.check(files, words, _say)

    @pull.command(name="try", help=words("read the first page and take nothing", "试读首页,不入库"))
    def try_(
        path: Annotated[Path, file],
        endpoint: Annotated[str, typer.Argument(help="https://…, postgresql://host/database")],
        secret: Annotated[str | None, typer.Option(help=words("name of the stored secret", "密钥名"))] = None,
        tls: Annotated[str | None, typer.Option(help="prefer, require, verify-full")] = None,
        rows: Annotated[int, typer.Option(min=1, max=1000, help=words("that are shown", "显示行数"))] = 10,
    ) -> None:
        from libs.suite import pulltest

        source = pulltest.Source(endpoint, secret, tls)
        good = pulltest.try_pull(_settings(), path, source, rows=rows, words=words, say=_say)
        raise typer.Exit(0 if good else 1)

    @pull.command(name="list", help=words("how far each source has been read", "各数据源的读取进度"))
    def list_() -> None:
        from libs.suite import pulltest

        pulltest.list_pulls(_settings(), words, _say)


def _add_fault(app: typer.Typer, words: Words) -> None:
    fault = typer.Typer(
        help=words("where the fault is: diagnoses of silent and failing devices", "故障定位：失联和故障设备的分析结果"),
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.add_typer(fault, name="fault")

    @fault.command(name="list", help=words("open diagnoses, or all", "未恢复的分析结果，或全部"))
    def list_(
        device: Annotated[str | None, typer.Option(help=words("of one device", "指定设备"))] = None,
        all_: Annotated[bool, typer.Option("--all", help=words("the ended ones too", "包括已恢复的"))] = False,
    ) -> None:
        from libs.suite import faultlist

        faultlist.list_faults(_settings(), device=device, all_=all_, words=words, say=_say)

    @fault.command(help=words("look at a device now", "立即分析设备"))
    def look(
        device: Annotated[str, typer.Argument(metavar="DEVICE", help=words("id of the device", "设备编号"))],
        wait_s: Annotated[float, typer.Option(min=1, max=600, help=words("for the answer", "等待结果"))] = 60.0,
    ) -> None:
        from libs.suite import faultlist

        found = faultlist.look(_settings(), device, wait_s=wait_s, words=words, say=_say)
        raise typer.Exit(0 if found else 1)

    @fault.command(help=words("all causes with their codes", "全部故障代码"))
    def codes(
        receiver: Annotated[str | None, typer.Option(help=words("whose codes", "接收方"))] = None,
    ) -> None:
        from libs.suite import faultlist

        faultlist.list_codes(_settings(), receiver=receiver, words=words, say=_say)

    @fault.command(help=words("write the diagnoses into a workbook", "导出 Excel"))
    def save(
        path: Annotated[Path, typer.Argument(dir_okay=False, help=words("workbook (.xlsx)", "工作簿（.xlsx）"))],
    ) -> None:
        from libs.suite import faultlist

        faultlist.save(_settings(), path, words=words, say=_say)


def _add_signals(app: typer.Typer, words: Words) -> None:
    signals = typer.Typer(
        help=words("the standard signal table in versions", "标准信号表的版本管理"),
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.add_typer(signals, name="signals")
    table = typer.Argument(metavar="TABLE", help=words("id of the table", "信号表标识"))

    @signals.command(name="list", help=words("the tables and the version that counts", "各信号表及其当前版本"))
    def list_() -> None:
        from libs.suite.api import LocalApi
        from libs.suite.signals import list_tables

        with LocalApi(_settings()) as api:
            list_tables(api, words, _say)

    @signals.command(help=words("every version of a table", "信号表的全部版本"))
    def versions(dictionary: Annotated[str, table]) -> None:
        from libs.suite.api import LocalApi
        from libs.suite.signals import list_versions

        with LocalApi(_settings()) as api:
            list_versions(api, dictionary, words, _say)

    @signals.command(help=words("what judges a device, and which override says so", "设备适用的规则及参数来源"))
    def rules(
        device: Annotated[str, typer.Argument(metavar="DEVICE", help=words("id of the device", "设备编号"))],
    ) -> None:
        from libs.suite.api import LocalApi
        from libs.suite.signals import list_rules

        with LocalApi(_settings()) as api:
            list_rules(api, device, words, _say)

    @signals.command(help=words("write a version to a file, .xlsx or .csv", "将某一版本导出为 .xlsx 或 .csv 文件"))
    def export(
        dictionary: Annotated[str, table],
        file: Annotated[Path, typer.Argument(dir_okay=False)],
        version: Annotated[int | None, typer.Option(min=1, help=words("else the last", "默认为最新版本"))] = None,
    ) -> None:
        from libs.suite.api import LocalApi
        from libs.suite.signals import export_table

        with LocalApi(_settings()) as api:
            export_table(api, dictionary, file, version, words, _say)

    @signals.command(name="import", help=words("import a file as the next version", "导入文件作为下一版本"))
    def import_(
        dictionary: Annotated[str, table],
        file: Annotated[Path, typer.Argument(dir_okay=False)],
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help=words("show what would change", "仅显示将发生的变更"))
        ] = False,
        remove_missing: Annotated[
            bool, typer.Option("--remove-missing", help=words("rows that the file lacks go", "删除文件中没有的信号"))
        ] = False,
        name: Annotated[str | None, typer.Option(help=words("of a new table", "新信号表的名称"))] = None,
        reason: Annotated[str | None, typer.Option(help=words("why", "原因"))] = None,
    ) -> None:
        from libs.suite.api import LocalApi
        from libs.suite.signals import import_table

        how = {"dry_run": dry_run, "missing": "remove" if remove_missing else "keep", "name": name, "reason": reason}
        with LocalApi(_settings()) as api:
            import_table(api, dictionary, file, words, _say, **how)


def _add_line(app: typer.Typer, words: Words) -> None:
    """Add the helpers for a person who commissions a line."""
    line = typer.Typer(
        help=words("look at a line in the field: who is on it, and what goes by", "查看现场线路:设备、寄存器、报文"),
        no_args_is_help=True,
    )
    app.add_typer(line, name="line")

    @line.command(help=words("look for Modbus units", "搜索 Modbus 单元号"))
    def scan(
        line_id: Annotated[str, typer.Argument(metavar="LINE", help=words("id of the line", "线路编号"))],
        first: Annotated[int, typer.Option(min=0, max=255)] = 1,
        last: Annotated[int, typer.Option(min=0, max=255)] = 247,
        timeout_s: Annotated[float, typer.Option(min=0.01, max=5, help=words("for each answer", "每次应答时限"))] = 0.5,
    ) -> None:
        from libs.suite import fieldwork

        fieldwork.scan(_settings(), line_id, first=first, last=last, timeout_s=timeout_s, words=words, say=_say)

    @line.command(help=words("ask a device what it is", "读取设备标识"))
    def identify(
        line_id: Annotated[str, typer.Argument(metavar="LINE", help=words("id of the line", "线路编号"))],
        unit: Annotated[
            int | None, typer.Argument(min=0, max=255, help=words("Modbus unit id", "Modbus 单元号"))
        ] = None,
        timeout_s: Annotated[float, typer.Option(min=0.01, max=5, help=words("for each answer", "每次应答时限"))] = 0.5,
    ) -> None:
        from libs.suite import fieldwork

        fieldwork.identify(_settings(), line_id, unit=unit, timeout_s=timeout_s, words=words, say=_say)

    @line.command(help=words("try the known profiles on a device", "为设备匹配模板"))
    def propose(
        line_id: Annotated[str, typer.Argument(metavar="LINE", help=words("id of the line", "线路编号"))],
        address: Annotated[str, typer.Argument(help=words("address on the line", "线路上的地址"))],
        protocol: Annotated[str, typer.Option(help="modbus, dlt645-2007, cjt188")] = "modbus",
    ) -> None:
        from libs.suite import fieldwork

        fieldwork.propose(_settings(), line_id, address=address, protocol=protocol, words=words, say=_say)

    @line.command(help=words("read points at their address, before and behind it", "在地址前后各读一个寄存器,核对偏移"))
    def probe(
        line_id: Annotated[str, typer.Argument(metavar="LINE", help=words("id of the line", "线路编号"))],
        unit: Annotated[int, typer.Argument(min=0, max=255, help=words("Modbus unit id", "Modbus 单元号"))],
        profile: Annotated[str, typer.Argument(help=words("what it is believed to be", "拟用的设备模板"))],
        point: Annotated[list[str] | None, typer.Option(help=words("these points only", "仅这些测点"))] = None,
        timeout_s: Annotated[float, typer.Option(min=0.01, max=5, help=words("for each answer", "每次应答时限"))] = 0.5,
    ) -> None:
        from libs.suite import fieldwork

        fieldwork.probe(
            _settings(),
            line_id,
            unit=unit,
            profile=profile,
            points=point or [],
            timeout_s=timeout_s,
            words=words,
            say=_say,
        )

    @line.command(help=words("show raw frames as they go by", "实时显示原始报文"))
    def trace(
        line_id: Annotated[str, typer.Argument(metavar="LINE", help=words("id of the line", "线路编号"))],
        device: Annotated[str | None, typer.Option(help=words("of this device only", "仅该设备"))] = None,
        for_s: Annotated[float, typer.Option(min=0.1, max=600, help=words("how long [s]", "时长 [s]"))] = 60.0,
    ) -> None:
        from libs.suite import fieldwork

        fieldwork.trace(_settings(), line_id, device=device, for_s=for_s, say=_say)


def _add_services(app: typer.Typer, words: Words) -> None:
    for name, (english, chinese) in SERVICES.items():
        app.command(name, help=words(english, chinese))(_runner(f"services.{name}.main"))
    text = words("run the wake-up watchdog alone", "单独运行唤醒看门狗")
    app.command("watchdog", help=text)(_runner("services.control.watchdog.__main__"))

    @app.command(help=words("run the job worker alone: imports, reports", "单独运行任务进程:导入、报表"))
    def jobs(services: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        from libs.suite import jobworker

        sys.argv[1:] = services or []
        raise typer.Exit(jobworker.main())


def _runner(module: str) -> Any:
    def run() -> None:
        import importlib

        raise typer.Exit(importlib.import_module(module).main() or 0)

    return run


def _lang_option(arguments: Sequence[str]) -> str | None:
    for position, argument in enumerate(arguments):
        if argument.startswith("--lang="):
            return argument.removeprefix("--lang=")
        if argument == "--lang" and position + 1 < len(arguments):
            return arguments[position + 1]
    return None


def _settings() -> "CommonSettings":
    from libs.common.settings import load_common

    return load_common()


def _database_url(words: Words) -> str:
    from libs.suite.doctor import settings_with_embedded_database

    url = settings_with_embedded_database(_settings()).database.url
    if url is None:
        raise PlatformError(
            "no database: set DATABASE_URL, or start the embedded one with `wattring up`",
            message_zh="未配置数据库:请设置 DATABASE_URL,或用 `wattring up` 启动内置数据库",
        )
    return url.get_secret_value()


async def _reaching_the_database(url: str, work: Any) -> Any:
    import asyncpg

    from libs.common.db import REFUSED, not_reached

    try:
        return await work
    except (*REFUSED, OSError, asyncpg.PostgresError) as exc:
        raise not_reached(url, exc) from exc


def _say(line: str) -> None:
    print(line, flush=True)
