"""Report control blocks: how they are found out about, enabled, and gone on with after an association was lost.

Source:
    IEC 61850-7-2:2010 17 (control blocks and their attributes), IEC 61850-8-1:2011 17.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from hat.drivers import mms

from services.ingest.drivers.iec61850.client import Client
from services.ingest.drivers.iec61850.intake import Intake
from services.ingest.drivers.iec61850.names import Variable, data_set
from services.ingest.drivers.iec61850.reports import (
    DATA_CHANGE,
    DATA_SET,
    ENTRY,
    INTEGRITY,
    INTERROGATION,
    OVERFLOW,
    QUALITY_CHANGE,
    REASON,
    REVISION,
    SEQUENCE,
    TIME,
    Member,
    Report,
)
from services.ingest.drivers.iec61850.values import text_of
from services.ingest.drivers.port import DeviceRefused

logger = logging.getLogger(__name__)

TRIGGERS = frozenset({DATA_CHANGE, QUALITY_CHANGE, INTEGRITY, INTERROGATION})
FIELDS = frozenset({SEQUENCE, TIME, REASON, DATA_SET, REVISION})
FIELDS_BUFFERED = FIELDS | {OVERFLOW, ENTRY}


@dataclass(slots=True)
class Subscription:
    """One enabled report control block."""

    block: Variable
    report_id: str
    members: Sequence[Member]
    intakes: Sequence[Intake]
    """Of the devices that have something in it."""
    resuming: bool = False
    """What comes was kept in its buffer, until the general interrogation is answered."""
    last: int | None = field(default=None, init=False)
    """Number of the last report."""

    def has_lost(self, report: Report) -> bool:
        """Note a report; return whether some before it did not come."""
        before, self.last = self.last, report.sequence
        if report.overflow:
            return self.resuming or before is not None  # what was lost before us was never ours
        if report.sequence is None or before is None:
            return False
        return report.sequence not in (before, before + 1, 0)


async def learn(client: Client, block: Variable, intakes: Sequence[Intake], *, within_s: float) -> Subscription:
    """Return what is to be known of a block before its first report comes.

    Args:
        client: The association.
        block: The report control block.
        intakes: Of the devices that it is for.
        within_s: For each answer. [s]

    Raises:
        LineDown, DeviceSilent, DeviceRefused: As the client.
        ValueError: It cannot be used.
    """
    told_id, told_set = await client.read((block.child("RptID"), block.child("DatSet")), within_s=within_s)
    found = None if told_set is None else data_set(text_of(told_set))
    if found is None:
        raise ValueError("it is not there, or has no data set")
    entries = await client.members_of(found, within_s=within_s)
    members = [Member(entry, await client.type_of(entry, within_s=within_s)) for entry in entries]
    name = "" if told_id is None else text_of(told_id)
    return Subscription(block, name or f"{block.domain}/{block.item}", members, intakes)


async def enable(
    client: Client, subscription: Subscription, *, last_entry: bytes | None, integrity_s: float | None, within_s: float
) -> None:
    """Enable a block and ask for everything once.

    Args:
        client: The association.
        subscription: The block.
        last_entry: The last that was taken of its buffer; None for none.
        integrity_s: How often everything is to be told; None leaves it as it is configured. [s]
        within_s: For each answer. [s]

    Raises:
        LineDown, DeviceSilent: As the client.
        DeviceRefused: It cannot be had: another client has it.
    """
    block = subscription.block

    async def write(name: str, data: object) -> None:
        await client.write(block.child(name), data, within_s=within_s)

    async def prefer(name: str, data: object) -> None:
        try:
            await write(name, data)
        except DeviceRefused as exc:  # an IED may have it fixed; its own is taken then
            facts = {"block": block.item, "attribute": name, "reason": exc.message}
            logger.info("attribute of a report control block stays as it is", extra=facts)

    buffered = "$BR$" in block.item
    await write("RptEna", mms.BooleanData(False))
    await prefer("OptFlds", _bits(FIELDS_BUFFERED if buffered else FIELDS, 10))
    await prefer("TrgOps", _bits(TRIGGERS, 6))
    if integrity_s is not None:
        await prefer("IntgPd", mms.UnsignedData(round(integrity_s * 1000)))
    if buffered and last_entry is not None:
        subscription.resuming = True
        try:
            await write("EntryID", mms.OctetStringData(last_entry))
        except DeviceRefused as exc:  # not in the buffer any more: all that it has is told
            facts = {"block": block.item, "reason": exc.message}
            logger.warning("entries of a report buffer were lost", extra=facts)
    elif buffered:
        # What was buffered for somebody before us is not asked for: it may have been told already.
        await prefer("PurgeBuf", mms.BooleanData(True))
    await write("RptEna", mms.BooleanData(True))
    try:
        await write("GI", mms.BooleanData(True))
    except DeviceRefused:
        subscription.resuming = False  # nothing will say where the buffer ends; reading tells how things are


def _bits(true: frozenset[int], count: int) -> mms.BitStringData:
    return mms.BitStringData([n in true for n in range(count)])
