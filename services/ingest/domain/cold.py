"""Where a report lies once its day is cold: one Parquet file per UTC day and so many devices.

``readings/day=2026-03-01/part-00000.parquet`` holds the devices with the numbers 0 to 511. A file is only ever
replaced as a whole, under the same name, by one that holds at least as much: whoever reads a folder never finds a
report twice.
"""

from datetime import date

DEVICES_PER_FILE = 512
"""At a report in five minutes that is 147,456 reports a file. Never changed: a device's number says where it lies."""
ROW_GROUP = 131_072
"""Reports in a row group. Small ones cost: with 1,000 a point takes 40 % more (dry-runs.md 4)."""
FOLDER = "readings"


def part_of(device_no: int) -> int:
    """Return the part that a device lies in."""
    return device_no // DEVICES_PER_FILE


def devices_of(part: int) -> range:
    """Return the numbers of the devices in a part."""
    return range(part * DEVICES_PER_FILE, (part + 1) * DEVICES_PER_FILE)


def folder_of(day: date) -> str:
    """Return the folder of a day; the form is the one that readers of Parquet take a column from."""
    return f"{FOLDER}/day={day.isoformat()}"


def file_of(day: date, part: int) -> str:
    """Return the name of a part's file."""
    return f"{folder_of(day)}/part-{part:05d}.parquet"
