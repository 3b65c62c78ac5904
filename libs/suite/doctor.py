"""``wattring doctor``: what this machine and its settings lack, and how to mend each.

A check answers with findings; one that is *bad* keeps Wattring from working, a *doubtful* one costs something that
the finding names.
"""

import asyncio
import os
import platform
import resource
import shutil
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import asyncpg

from libs.common.clock import SystemClock
from libs.common.clocksync import ClockState, clock_state
from libs.common.db import Database
from libs.common.errors import InvalidFile, PlatformError
from libs.common.migrations import pending
from libs.common.profiles import ProfileCatalogue
from libs.common.settings import SERVICES, CommonSettings, load_section
from libs.common.web import build_version
from libs.suite.children import get
from libs.suite.envexample import sections
from libs.suite.folders import DataFolder, FolderUnusable
from libs.suite.postgres import MAJOR, bundled_binaries
from libs.suite.supervisor import DISK_LOW_BYTES, DISK_NEEDED_BYTES
from libs.suite.words import Words

FILES_WANTED = 65_536
"""Ten thousand dialled-in devices and everything else."""
OLDEST_POSTGRES = 15
SKEW_MAX_S = 2.0
"""Database and we should agree on the time within this: leases are in the database's. [s]"""
CONNECT_TIMEOUT_S = 5.0

Level = Literal["good", "doubtful", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    level: Level
    detail: str
    mend: str = ""
    """What to do; empty when it is good."""


Check = Callable[[CommonSettings, Words], Awaitable[list[Finding]]]


async def examine(settings: CommonSettings, words: Words) -> list[Finding]:
    """Return all findings, in the order in which they are best mended."""
    findings: list[Finding] = []
    for check in CHECKS:
        findings += await check(settings, words)
    return findings


def settings_with_embedded_database(settings: CommonSettings) -> CommonSettings:
    """Return the settings with the URL of the embedded server of the data folder, where none is given."""
    if settings.database.url is not None:
        return settings
    place = DataFolder(settings.data_dir).database_url
    if not place.exists():
        return settings
    data = settings.model_dump()
    data["database"]["url"] = place.read_text(encoding="utf-8")
    return CommonSettings.model_validate(data)


async def _versions(_: CommonSettings, words: Words) -> list[Finding]:
    name = words("versions", "版本")
    text = f"Wattring {build_version('common')}, Python {platform.python_version()}, {platform.platform(terse=True)}"
    findings = [Finding(name, "good", text)]
    try:
        bundled_binaries()
    except PlatformError as exc:
        mend = words("set DATABASE_URL to a PostgreSQL server", "请用 DATABASE_URL 指定 PostgreSQL 服务器")
        findings.append(Finding(words("embedded PostgreSQL", "内置数据库"), "doubtful", exc.message, mend))
    else:
        findings.append(Finding(words("embedded PostgreSQL", "内置数据库"), "good", f"PostgreSQL {MAJOR}"))
    return findings


async def _sections(_: CommonSettings, words: Words) -> list[Finding]:
    name = words("settings", "配置")
    wrong: list[Finding] = []
    for section, model in sections().items():
        try:
            load_section(section, model)
        except PlatformError as exc:
            mend = words(
                "correct or remove the variable; deploy/env.example lists all",
                "请更正或删除该变量,全部配置项见 deploy/env.example",
            )
            wrong += [Finding(name, "bad", line, mend) for line in words(*exc.both).splitlines()]
    return wrong or [Finding(name, "good", words("all are known and possible", "全部有效"))]


async def _profiles(settings: CommonSettings, words: Words) -> list[Finding]:
    name = words("device profiles", "设备模板")
    try:
        found = await asyncio.to_thread(ProfileCatalogue.load, settings.profile_dirs)
    except InvalidFile as exc:
        mend = words(
            "correct the file, or take its folder out of WATTRING_PROFILE_DIRS",
            "请更正文件,或从 WATTRING_PROFILE_DIRS 移除其目录",
        )
        source = exc.facts["source"]
        lines = [words(str(problem), problem.text_zh()) for problem in exc.problems]
        return [Finding(name, "bad", f"{source}:{line}", mend) for line in lines]
    return [Finding(name, "good", words(f"{len(found)} profiles", f"{len(found)} 个"))]


async def _folder(settings: CommonSettings, words: Words) -> list[Finding]:
    name, root = words("data folder", "数据目录"), DataFolder(settings.data_dir).root
    existing = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        mend = words("choose another with WATTRING_DATA_DIR", "请用 WATTRING_DATA_DIR 另选目录")
        return [Finding(name, "bad", words(f"{existing} cannot be written", f"{existing} 不可写"), mend)]
    findings = [Finding(name, "good", str(root))]
    if root.exists() and root.stat().st_mode & 0o077:
        mode = f"{root.stat().st_mode & 0o777:o}"
        detail = words(f"{root} is open to others ({mode})", f"{root} 对其他用户开放({mode})")
        findings = [Finding(name, "doubtful", detail, f"chmod 700 {root}")]
    free = shutil.disk_usage(existing).free
    level: Level = "bad" if free < DISK_NEEDED_BYTES else "doubtful" if free < DISK_LOW_BYTES else "good"
    mend = words("free some space, or choose another WATTRING_DATA_DIR", "请清理磁盘,或另选 WATTRING_DATA_DIR")
    detail = words(f"{free >> 20} MB free", f"剩余 {free >> 20} MB")
    findings.append(Finding(words("disk", "磁盘"), level, detail, "" if level == "good" else mend))
    return findings


async def _files(_: CommonSettings, words: Words) -> list[Finding]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return [files_finding(hard, words)]


def files_finding(hard: int, words: Words) -> Finding:
    """Judge the hard limit of open files; the soft one is raised to it at start."""
    name = words("open files", "打开文件数")
    if hard == resource.RLIM_INFINITY or hard >= FILES_WANTED:
        return Finding(name, "good", str(hard))
    return Finding(
        name,
        "doubtful",
        words(f"at most {hard}: about {max(hard - 500, 0)} devices can dial in", f"上限 {hard}"),
        words(
            f"raise the limit to {FILES_WANTED}: LimitNOFILE= of the unit, or /etc/security/limits.conf",
            f"请将上限提高到 {FILES_WANTED}:修改服务单元的 LimitNOFILE= 或 /etc/security/limits.conf",
        ),
    )


async def _clock(_: CommonSettings, words: Words) -> list[Finding]:
    return [clock_finding(clock_state(), words)]


def clock_finding(state: ClockState | None, words: Words) -> Finding:
    """Judge the clock: while it is not synchronised no load is switched off."""
    name = words("clock", "时钟")
    if state is None:
        return Finding(
            name, "doubtful", words("the kernel does not tell", "内核未提供状态"), words("ask NTP", "请检查 NTP")
        )
    if not state.synchronised:
        return Finding(
            name,
            "doubtful",
            words(
                "not synchronised: loads are not switched off meanwhile, and times of readings may be wrong",
                "未同步:期间不执行关断,数据时间可能有误",
            ),
            words(
                "install and start chrony (apt-get install chrony); then `chronyc tracking`",
                "请安装并启动 chrony(apt-get install chrony),再查看 `chronyc tracking`",
            ),
        )
    return Finding(
        name,
        "good",
        words(f"synchronised, within {state.max_error_s:.3f} s", f"已同步,误差 {state.max_error_s:.3f} 秒内"),
    )


async def _database(settings: CommonSettings, words: Words) -> list[Finding]:
    name = words("database", "数据库")
    embedded = settings.database.url is None
    settings = settings_with_embedded_database(settings)
    if settings.database.url is None:
        return [Finding(name, "good", words("embedded; it starts with `wattring up`", "内置,随 `wattring up` 启动"))]
    url = settings.database.url.get_secret_value()
    try:
        conn = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
    except (OSError, TimeoutError, asyncpg.PostgresError, ValueError) as exc:
        if embedded:
            return [Finding(name, "good", words("embedded, not running", "内置,未运行"))]
        mend = words("start the server, and check DATABASE_URL", "请启动数据库服务器并检查 DATABASE_URL")
        place = Database(settings.database, schema="public").place
        return [Finding(name, "bad", f"{place}: {exc or type(exc).__name__}", mend)]
    try:
        clock = SystemClock()
        asked = clock.now()
        theirs = await conn.fetchval("select clock_timestamp()")
        skew_s = abs((theirs - asked).total_seconds()) - (clock.now() - asked).total_seconds()
        number = await conn.fetchval("select current_setting('server_version_num')::int")
    finally:
        await conn.close(timeout=CONNECT_TIMEOUT_S)
    findings = [database_finding(number, skew_s, words)]
    missing = await pending(url)
    if missing:
        detail = words(
            f"{len(missing)} changes are missing, the first is {missing[0].name}", f"缺少 {len(missing)} 项迁移"
        )
        findings.append(Finding(words("schemas", "数据库结构"), "bad", detail, "wattring migrate"))
    else:
        findings.append(Finding(words("schemas", "数据库结构"), "good", words("up to date", "最新")))
    return findings


def database_finding(version_number: int, skew_s: float, words: Words) -> Finding:
    """Judge a server by its version (``server_version_num``) and by how far its clock is from ours."""
    name, major = words("database", "数据库"), version_number // 10_000
    if major < OLDEST_POSTGRES:
        mend = words(f"use PostgreSQL {OLDEST_POSTGRES} or newer", f"请使用 PostgreSQL {OLDEST_POSTGRES} 或更新版本")
        return Finding(name, "bad", f"PostgreSQL {major}", mend)
    if skew_s > SKEW_MAX_S:
        detail = words(f"its clock differs from ours by {skew_s:.1f} s", f"与本机时钟相差 {skew_s:.1f} 秒")
        mend = words("synchronise both clocks (NTP)", "请同步两台机器的时钟(NTP)")
        return Finding(name, "doubtful", f"PostgreSQL {major}, {detail}", mend)
    return Finding(name, "good", f"PostgreSQL {major}")


async def _bus(settings: CommonSettings, words: Words) -> list[Finding]:
    name = words("bus", "消息总线")
    if settings.bus.effective_kind == "postgres":
        return [Finding(name, "good", words("log in the database", "数据库内日志"))]
    from libs.common.bus import open_bus

    bus = open_bus(settings, SystemClock())
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S * 2):
            await bus.start()
            await bus.check()
    except (PlatformError, TimeoutError) as exc:
        mend = words(
            "start the broker, and check KAFKA_BOOTSTRAP_SERVERS", "请启动 Kafka 并检查 KAFKA_BOOTSTRAP_SERVERS"
        )
        reason = words(*exc.both) if isinstance(exc, PlatformError) else words("no answer", "无应答")
        return [Finding(name, "bad", reason, mend)]
    finally:
        async with asyncio.timeout(CONNECT_TIMEOUT_S * 2):
            await bus.stop()
    return [Finding(name, "good", f"Kafka {settings.bus.bootstrap_servers}")]


async def _suite(settings: CommonSettings, words: Words) -> list[Finding]:
    name, folder = words("suite", "服务"), DataFolder(settings.data_dir)
    try:
        holder = folder.holder()
    except FolderUnusable:  # said already, by the check of the data folder
        return []
    if holder is None:
        return [_port(settings, words)]
    findings = [Finding(name, "good", words(f"running (process {holder})", f"运行中(进程 {holder})"))]
    for service in (*SERVICES, "watchdog"):
        status, body = await get(folder.socket(service), "/readyz")
        if status != 200:
            log = folder.log("watchdog" if service == "watchdog" else "suite")
            mend = words(f"its log says why: {log}", f"原因见日志:{log}")
            findings.append(Finding(service, "bad", body[:200] or words("no answer", "无应答"), mend))
    return findings


def _port(settings: CommonSettings, words: Words) -> Finding:
    name = words("port", "端口")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as exc:
            mend = words("choose another with PORT=…", "请用 PORT=… 另选端口")
            return Finding(name, "bad", f"{settings.host}:{settings.port}: {exc.strerror}", mend)
    return Finding(name, "good", words(f"{settings.port} is free", f"{settings.port} 可用"))


CHECKS: Sequence[Check] = (_versions, _sections, _profiles, _folder, _files, _clock, _database, _bus, _suite)
