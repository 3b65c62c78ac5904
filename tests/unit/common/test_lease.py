"""How long the holder of a lease may act."""

from libs.common.lease import Lease
from libs.common.testing.clock import FakeClock


async def test_validity_is_counted_by_the_monotonic_clock_and_never_negative() -> None:
    clock = FakeClock()
    lease = Lease("line-1", "a", 3, clock.monotonic() + 9.0, clock)
    assert lease.valid_for_s() == 9.0
    clock.set_wall(clock.now().replace(year=2036))  # an administrator sets the clock: nothing changes
    assert lease.valid_for_s() == 9.0
    await clock.advance(8.5)
    assert lease.valid
    await clock.advance(0.5)
    assert not lease.valid
    await clock.advance(100)
    assert lease.valid_for_s() == 0.0
