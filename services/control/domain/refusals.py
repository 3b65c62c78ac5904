"""What a guard says when it refuses: its name, the value that it saw, its limit, and words for people."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an OFF is not sent now, with the value that says so."""

    guard: str
    value: object
    limit: object
    is_final: bool
    """Waiting does not help."""

    def as_evidence(self) -> dict[str, object]:
        """Return the refusal for the command's history and for the caller."""
        english, chinese = self.words()
        return {
            "guard": self.guard, "value": self.value, "limit": self.limit, "message": english, "message_zh": chinese,
        }  # fmt: skip

    def words(self) -> tuple[str, str]:
        """Return what it says in English and in Chinese."""
        english, chinese = WORDS[self.guard]
        value, limit = _plain(self.value), _plain(self.limit)
        return english.format(value=value, limit=limit), chinese.format(value=value, limit=limit)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


WORDS: Mapping[str, tuple[str, str]] = {
    "restore_at_missing": ("an OFF without a wake-up is an isolation", "无唤醒时间的分闸须走检修隔离"),
    "never_off": ("the load may never be off", "负载禁止关断"),
    "no_breaker": ("the load has no breaker", "负载没有断路器"),
    "no_sector": ("a radio unit without a sector enters no plan", "无扇区的射频单元不得进入策略"),
    "no_line": ("the breaker hangs on no line", "断路器未接入线路"),
    "unknown_load": ("the registry has no such load", "档案中没有该负载"),
    "emergency": (
        "the wake-up order {value} is in force until a person releases it",
        "一键唤醒 {value} 生效中,须人工解除",
    ),
    "emergency_mode": ("emergency mode is declared: {value}", "应急模式生效中:{value}"),
    "isolation": ("the work permit {value} of somebody else is active", "他人的检修隔离 {value} 生效中"),
    "already_off": ("another OFF of the load is in force", "负载已处于关断状态"),
    "already_pending": ("another OFF of the load, {value}, is on its way", "负载已有待执行的分闸命令 {value}"),
    "coverage_layer": (
        "the unit belongs to the coverage layer, or the registry does not say that it does not",
        "该单元属于覆盖层(或档案未注明非覆盖层),须保持开启",
    ),
    "coverage_sector": (
        "{value} radio units of the sector would stay on, at least {limit} have to",
        "该扇区将仅剩 {value} 个射频单元开启,至少须保留 {limit} 个",
    ),
    "coverage_site": (
        "{value} radio units of the site would stay on, at least {limit} have to",
        "该站点将仅剩 {value} 个射频单元开启,至少须保留 {limit} 个",
    ),
    "max_off_site": (
        "{value} loads of the site would be off at once, at most {limit} may",
        "该站点同时关断将达 {value} 个负载,上限 {limit} 个",
    ),
    "max_off_region": (
        "{value} loads of the region would be off at once, at most {limit} may",
        "该区域同时关断将达 {value} 个负载,上限 {limit} 个",
    ),
    "command_latency": (
        "the device hears a command after up to {value} s, at most {limit} s is allowed",
        "设备命令时延可达 {value} 秒,上限 {limit} 秒",
    ),
    "too_little_left": (
        "{value} s of off time are left, the minimum is {limit} s",
        "剩余关断时长 {value} 秒,不足最小关断时长 {limit} 秒",
    ),
    "too_late": ("a late OFF is dropped after {limit} s", "迟到的分闸命令超过 {limit} 秒即丢弃"),
    "switches_per_day": (
        "the load was switched off {value} times in 24 hours, at most {limit} are allowed",
        "24 小时内已分闸 {value} 次,上限 {limit} 次",
    ),
    "min_on_time": (
        "the load has been on for {value} s, the minimum is {limit} s",
        "负载已运行 {value} 秒,不足最小运行时长 {limit} 秒",
    ),
    "guards_unknown": ("what the guards need could not be read: {value}", "无法读取闭锁判断所需信息:{value}"),
    "maintenance": ("work goes on there: maintenance window {value}", "维护窗口生效中:{value}"),
    "active_alarm": ("an alarm is active: {value}", "存在活动告警:{value}"),
    "backup_power": ("the site runs on battery or generator: {value}", "站点由蓄电池或油机供电:{value}"),
    "condition_power": (
        "the plan's condition is not met: the load draws {value} kW, wanted is {limit}",
        "策略条件不满足:负载功率 {value} 千瓦,要求 {limit}",
    ),
    "condition_traffic_load": (
        "the plan's condition is not met: traffic is {value} %, wanted is {limit}",
        "策略条件不满足:话务负荷 {value}%,要求 {limit}",
    ),
    "condition_temperature_outdoor": (
        "the plan's condition is not met: it has {value} degC outdoors, wanted is {limit}",
        "策略条件不满足:室外温度 {value} ℃,要求 {limit}",
    ),
    "condition_tariff_band": (
        "the plan's condition is not met: the tariff's band is {value}, wanted is {limit}",
        "策略条件不满足:当前电价时段 {value},要求 {limit}",
    ),
    "stale_power": (
        "the load's power is not known for as long as the plan's condition asks; a value stands for {limit} s",
        "负载功率数据缺失或过期,不足以判断策略条件;有效期 {limit} 秒",
    ),
    "stale_traffic_load": (
        "the load's traffic is not known for as long as the plan's condition asks; a value stands for {limit} s",
        "话务负荷数据缺失或过期,不足以判断策略条件;有效期 {limit} 秒",
    ),
    "stale_temperature_outdoor": (
        "the outdoor temperature is not known for as long as the plan's condition asks; a value stands for {limit} s",
        "室外温度数据缺失或过期,不足以判断策略条件;有效期 {limit} 秒",
    ),
    "clock_not_synchronised": ("our clock cannot be trusted: {value}", "平台时钟未同步:{value}"),
    "stale_data": (
        "the breaker was last read {value} s ago (None: never), at most {limit} s is allowed",
        "断路器数据已过期 {value} 秒(None 为从未读取),上限 {limit} 秒",
    ),
    "restarting": (
        "the device is being restarted by the order {value}: until that is over, within {limit} s, nobody can tell what"
        " it reads",
        "设备正在按命令 {value} 重启,{limit} 秒内结束前无法确认其读数",
    ),
    "local_lock": ("the breaker is locked at the device", "断路器就地锁定"),
    "protection_trip": (
        "the breaker shows the protection trip {value}, which would stop the wake-up",
        "断路器显示保护跳闸 {value},将阻碍唤醒",
    ),
    "watchdog_unreachable": ("the watchdog has not acknowledged the lease", "看门狗未确认租约"),
    "two_persons": ("a second person has to agree", "须由另一人批准"),
    "opted_out": ("the site has opted out of what apps order until {limit}", "站点已退出上层应用的关断,至 {limit}"),
    "app_no_limits": (
        "no limits are set for {value}, so it may switch nothing",
        "未为 {value} 设置权限,不得操作任何负载",
    ),
    "app_action": ("the app may not order {value}, only {limit}", "应用无权执行 {value},仅可 {limit}"),
    "app_load": ("the load is not on the app's list", "负载不在该应用的清单内"),
    "app_device": ("the device is not on the app's list", "设备不在该应用的清单内"),
    "app_max_off": (
        "{value} loads would be off by the app's orders, at most {limit} may",
        "该应用关断的负载将达 {value} 个,上限 {limit} 个",
    ),
    "app_longest_off": (
        "the OFF would last {value} s, the app's longest is {limit} s",
        "关断时长 {value} 秒,该应用上限 {limit} 秒",
    ),
    "app_window": (
        "the OFF from {value} lies outside of the app's windows: {limit}",
        "关断时段 {value} 不在该应用允许的时段内:{limit}",
    ),
    "app_rate": (
        "the app has ordered {value} times, at most {limit} are allowed",
        "应用已下令 {value} 次,上限 {limit} 次",
    ),
    "app_plan_approval": ("an operator approves the app's plans", "该应用的策略须由操作员批准"),
}
"""English and Chinese of every guard of an OFF."""
