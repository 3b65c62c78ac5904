"""Whether the machine's clock follows a time source, as the kernel knows it.

The kernel is told by whatever disciplines the clock (chrony, ntpd, systemd-timesyncd, a hypervisor's guest agent).
"""

import ctypes
from dataclasses import dataclass

TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""


@dataclass(frozen=True, slots=True)
class ClockState:
    """What the kernel says of the clock."""

    synchronised: bool
    max_error_s: float
    """Bound of the error, growing since the last correction. [s]"""


def clock_state() -> ClockState | None:
    """Return the state of the clock, None where the kernel does not tell (no Linux, or a sandbox).

    Source:
        adjtimex(2), Linux.
    """
    timex = _Timex()
    try:
        status = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (AttributeError, OSError):
        return None
    if status < 0:
        return None
    return ClockState(synchronised=status != TIME_ERROR, max_error_s=timex.maxerror / 1e6)


class _Timex(ctypes.Structure):
    """``struct timex``; what follows the fields that are read is only as long as it has to be."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    )
