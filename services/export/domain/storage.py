"""How values are stored for a centre: one of each hour, of points that are measured. Pure.

That is the one rule there is. A centre that orders it has its will, one that orders another is told no, point by
point: what is sampled is what hourly reports and files are made of.
"""

from collections.abc import Sequence
from datetime import datetime

from libs.common.clock import CIVIL_ZONE
from services.export.dialects.messages import (
    DeviceOutcome,
    DeviceRules,
    DeviceSelection,
    RuleOrder,
    StorageRule,
)
from services.export.domain.latest import selected
from services.export.domain.mapping import Mapping as UnitMapping
from services.export.domain.mapping import SourceKind
from services.export.domain.outcomes import outcomes_of

STORED_EVERY_MIN = 60
"""The first good value of each hour. [min]"""


def rules_of(mapping: UnitMapping, selection: Sequence[DeviceSelection], now: datetime) -> tuple[DeviceRules, ...]:
    """Return the rule of each measured point that is asked for; hours are counted from the beginning of the day."""
    reference = now.astimezone(CIVIL_ZONE).replace(hour=0, minute=0, second=0, microsecond=0)
    return tuple(
        DeviceRules(
            device,
            tuple(
                StorageRule(point_id, point.type, STORED_EVERY_MIN, reference)
                for point_id, point in points
                if point is not None and point.kind is SourceKind.POINT
            ),
        )
        for device, points in selected(mapping, selection)
    )


def kept(mapping: UnitMapping, orders: Sequence[RuleOrder]) -> tuple[DeviceOutcome, ...]:
    """Return of each point whether it is stored as ordered."""
    measured = {(point.sc_device_id, point.point_id) for point in mapping.points if point.kind is SourceKind.POINT}
    return outcomes_of(
        (
            order.device,
            order.point_id,
            (order.device.device_id, order.point_id) in measured
            and order.interval_min == STORED_EVERY_MIN
            and order.absolute is None
            and order.relative is None,
        )
        for order in orders
    )
