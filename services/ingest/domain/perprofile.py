"""What is made of a profile once, however many devices have it."""

from collections.abc import Callable
from typing import Generic, TypeVar

from libs.common.profiles import DeviceProfile

Made = TypeVar("Made")


class PerProfile(Generic[Made]):
    """Keeps what was made of each profile; of one that was read anew it is made anew."""

    def __init__(self, make: Callable[[DeviceProfile], Made]) -> None:
        """Prepare; ``make`` is called for each profile when it is asked for first."""
        self._make = make
        self._known: dict[tuple[str, str], tuple[DeviceProfile, Made]] = {}

    def of(self, profile: DeviceProfile) -> Made:
        """Return what is made of a profile."""
        key = (profile.name, profile.version)
        found = self._known.get(key)
        if found is None or found[0] is not profile:
            found = self._known[key] = (profile, self._make(profile))
        return found[1]
