"""The registry's loads, as control remembers them."""

from types import SimpleNamespace
from typing import Any, cast

from libs.common.registry import RegistryView
from libs.common.testing.clock import FakeClock
from services.control.directory import RegistryLoads
from tests.integration.control.fake_ingest import records


def test_a_load_asked_for_before_the_registry_was_read_is_known_once_it_has_been() -> None:
    clock = FakeClock()
    nothing = cast(Any, None)
    view = RegistryView(bus=nothing, db=nothing, clock=clock)
    loads = RegistryLoads(view, clock)
    assert loads.get("aau-1") is None
    for record in records(["aau-1"]):
        view.index.put(record)  # as a start does, which calls nobody back
    view._tail = cast(Any, SimpleNamespace(ready=True))
    found = loads.get("aau-1")
    assert found is not None
    assert loads.get("aau-1") is found
