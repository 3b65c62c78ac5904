"""Options of points: of its thresholds and delays each point has one set, the one that alarm's rules hold. Pure.

A unit's own files say the same: ``SUConfigInstance.xml`` names this option for every point, and its
``StdSPConfigOptionDic.xml`` says what it holds. A centre that chooses it has its will; one that chooses a set
which only its own dictionary knows is told no, point by point.
"""

from collections.abc import Sequence

from services.export.dialects.messages import (
    DeviceOptions,
    DeviceOutcome,
    DeviceSelection,
    OptionOrder,
    PointOption,
)
from services.export.domain.latest import selected
from services.export.domain.mapping import Mapping as UnitMapping
from services.export.domain.outcomes import outcomes_of

OPTION = "1"
"""Id of the only option of a point."""


def options_of(mapping: UnitMapping, selection: Sequence[DeviceSelection]) -> tuple[DeviceOptions, ...]:
    """Return the options in use of the points that are asked for; what is not mapped is left out."""
    return tuple(
        DeviceOptions(
            device,
            tuple(PointOption(point_id, point.type, OPTION) for point_id, point in points if point is not None),
        )
        for device, points in selected(mapping, selection)
    )


def chosen(mapping: UnitMapping, orders: Sequence[OptionOrder]) -> tuple[DeviceOutcome, ...]:
    """Return of each point whether it uses the option that is ordered; two options for one point are both refused."""
    known = {(point.sc_device_id, point.point_id) for point in mapping.points}
    return outcomes_of(
        (order.device, order.point_id, (order.device.device_id, order.point_id) in known and order.option_id == OPTION)
        for order in orders
    )
