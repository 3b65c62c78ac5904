"""The registry file: taken whole, or refused with every place that is wrong."""

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from libs.common.contracts.registry import (
    Binding,
    Circuit,
    Device,
    Entity,
    EntityKind,
    Load,
    Region,
    Sim,
    Site,
    references_of,
)
from libs.common.errors import InvalidFile
from libs.common.profiles import ProfileCatalogue
from libs.common.registry import parse_registry_yaml
from libs.common.registry.file import LISTS

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DOCUMENT = Path(__file__).parents[3] / "docs" / "registry-file.md"


def parse(text: str, **known: EntityKind) -> list[Entity]:
    return parse_registry_yaml(text, "r.yaml", valid_from=NOW, changed_by="import:r.yaml", known=known)


def problems(text: str, **known: EntityKind) -> list[tuple[int | None, str, str]]:
    with pytest.raises(InvalidFile) as caught:
        parse(text, **known)
    assert [problem for problem in caught.value.problems if not problem.expected_zh] == []
    return [(problem.line, problem.field, problem.expected) for problem in caught.value.problems]


def example() -> str:
    match = re.search(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    return match[1]


def test_documented_example_is_taken_with_everything_in_it() -> None:
    entities = parse_registry_yaml(
        example(), "registry.yaml", valid_from=NOW, changed_by="x", profiles=ProfileCatalogue.load().names
    )
    by_id = {entity.id: entity for entity in entities}
    assert {entity.kind_of for entity in entities} == set(EntityKind)
    assert all(entity.valid_from == datetime(2025, 12, 31, 16, tzinfo=UTC) for entity in entities)
    assert all(entity.version == 1 and entity.changed_by == "x" for entity in entities)
    site, meter, sim, load = by_id["site-1"], by_id["meter-1"], by_id["sim-1"], by_id["load-1"]
    assert isinstance(site, Site)
    assert site.account_number == "0300100200300"
    assert site.name_zh == "白云三号基站"
    assert isinstance(meter, Device)
    assert (meter.address, meter.serial, meter.ct_ratio) == ("1", "202601010001", 20.0)
    assert isinstance(sim, Sim)
    assert sim.iccid == "89860322482004123456"
    assert isinstance(load, Load)
    assert load.plan_obstacle is None


def test_what_is_referred_to_comes_first() -> None:
    entities = parse(example())
    seen: set[str] = set()
    for entity in entities:
        assert {entity_id for _, _, entity_id in references_of(entity)} <= seen, entity.id
        seen.add(entity.id)


def test_children_may_stand_before_their_parents() -> None:
    text = """\
schema: registry/1
regions:
  - {id: c, code: 440106, name: Tianhe, parent: b}
  - {id: b, code: 440100, name: Guangzhou, parent: a}
  - {id: a, code: 440000, name: Guangdong}
"""
    assert [entity.id for entity in parse(text)] == ["a", "b", "c"]


def test_entity_may_say_since_when_it_holds() -> None:
    text = """\
schema: registry/1
regions:
  - {id: a, code: 440000, name: Guangdong}
  - {id: b, code: 110000, name: Beijing, valid_from: 2026-02-01T00:00:00+08:00}
"""
    a, b = parse(text)
    assert a.valid_from == NOW
    assert b.valid_from == datetime(2026, 2, 1, tzinfo=timezone(timedelta(hours=8)))


def test_references_may_lead_into_the_registry() -> None:
    text = "schema: registry/1\nrooms:\n  - {id: r, site: s9, code: '1', name: Room}\n"
    assert [entity.id for entity in parse(text, s9=EntityKind.SITE)] == ["r"]
    assert problems(text) == [(3, "rooms[0].site", "the id of a site in this file or in the registry")]
    assert problems(text, s9=EntityKind.LINE) == [(3, "rooms[0].site", "the id of a site, this is a line")]


def test_all_problems_are_reported_at_once_with_their_lines() -> None:
    text = """\
schema: registry/1
sites:
  - id: s1
    code: A-1
    name: One
    kind: castle
    timezon: Asia/Shanghai
  - id: s 2
    code: A-2
    name: Two
    kind: idc
    lon: 200
devices:
  - {id: d1, name: Meter, kind: meter_3p, site: s1, ct_ratio: 0, profile: x}
  - {id: d2, name: Meter, kind: meter_3p, site: nowhere}
  - {name: Meter, kind: meter_3p, site: s1}
  - just text
loads:
  - {id: l1, name: Load, kind: aau, site: s1, breaker: {device: d1, chanel: 2}}
things: []
"""
    found = problems(text)
    assert [(line, field) for line, field, _ in found] == [
        (6, "sites[0].kind"),
        (7, "sites[0].timezon"),
        (8, "sites[1].id"),
        (12, "sites[1].lon"),
        (14, "devices[0].ct_ratio"),
        (15, "devices[1].site"),
        (16, "devices[2].id"),
        (17, "devices[3]"),
        (19, "loads[0].breaker.chanel"),
        (20, "things"),
    ]
    expected = {field: text for _, field, text in found}
    assert "'exchange', 'base_station'" in expected["sites[0].kind"]
    assert expected["sites[0].timezon"] == "timezone, there is no such field"
    assert expected["devices[0].ct_ratio"] == "greater than 0"
    assert expected["devices[2].id"] == "a value, the field is required"
    assert expected["loads[0].breaker.chanel"] == "channel, there is no such field"


def test_message_names_file_line_field_and_expectation_in_both_languages() -> None:
    with pytest.raises(InvalidFile) as caught:
        parse("schema: registry/1\nregions:\n  - {id: a, code: 44, name: x}\n")
    message = str(caught.value)
    assert "r.yaml:3: regions[0].code: expected" in message
    assert "'44'" in message
    assert "nothing was imported" in message
    assert caught.value.message_zh is not None
    assert "未导入任何内容" in caught.value.message_zh
    assert "r.yaml:3: regions[0].code:应为符合 ^[0-9]{6}$ 的文本,实际为 '44'" in caught.value.message_zh


def test_id_is_used_once_over_all_kinds() -> None:
    text = """\
schema: registry/1
regions:
  - {id: x, code: 440000, name: Guangdong}
organisations:
  - {id: x, name: Operator, kind: operator}
  - {id: y, name: Other, kind: operator}
"""
    assert problems(text, y=EntityKind.SITE) == [
        (5, "organisations[0].id", "an id of its own, line 3 has it too"),
        (6, "organisations[1].id", "an id of its own, a site has it"),
    ]


def test_known_entity_may_be_described_anew() -> None:
    text = "schema: registry/1\nregions:\n  - {id: x, code: 440000, name: Guangdong}\n"
    assert [entity.id for entity in parse(text, x=EntityKind.REGION)] == ["x"]


def test_two_devices_do_not_share_an_address_of_a_line() -> None:
    text = """\
schema: registry/1
lines:
  - {id: l, name: Line, kind: tcp, endpoint: "h:502"}
sites:
  - {id: s, code: "1", name: Site, kind: idc}
devices:
  - {id: a, name: A, kind: meter_3p, site: s, line: l, address: 1}
  - {id: b, name: B, kind: meter_3p, site: s, line: l, address: "1"}
  - {id: c, name: C, kind: meter_3p, site: s, line: l, address: 1, parent: a, channel: 1}
  - {id: d, name: D, kind: meter_3p, site: s, line: l, address: 1, parent: a, channel: 2}
  - {id: e, name: E, kind: meter_3p, site: s, line: l}
  - {id: f, name: F, kind: meter_3p, site: s, line: l}
"""
    assert problems(text) == [(8, "devices[1].address", "an address (or a channel) of its own on l, line 7 has it too")]


def test_profile_must_exist_when_profiles_are_known() -> None:
    text = """\
schema: registry/1
sites:
  - {id: s, code: "1", name: Site, kind: idc}
devices:
  - {id: a, name: A, kind: meter_3p, site: s, profile: chint_ddsu666}
  - {id: b, name: B, kind: meter_3p, site: s, profile: chint_ddsu667}
"""
    assert len(parse(text)) == 3
    with pytest.raises(InvalidFile, match=r"6: devices\[1\]\.profile: expected .* profile, perhaps chint_ddsu666"):
        parse_registry_yaml(text, "r", valid_from=NOW, changed_by="x", profiles=ProfileCatalogue.load().names)


def test_parents_do_not_form_a_loop() -> None:
    text = """\
schema: registry/1
regions:
  - {id: a, code: 440000, name: A, parent: b}
  - {id: b, code: 440100, name: B, parent: a}
  - {id: c, code: 440106, name: C, parent: a}
"""
    assert problems(text) == [
        (3, "regions[0].parent", "a parent that does not lead back, this does: a > b > a"),
        (4, "regions[1].parent", "a parent that does not lead back, this does: b > a > b"),
    ]


def test_mistake_of_an_entity_is_not_repeated_at_those_that_refer_to_it() -> None:
    text = """\
schema: registry/1
sites:
  - {id: s, code: "1", name: Site, kind: castle}
rooms:
  - {id: r, site: s, code: "1", name: Room}
"""
    assert [field for _, field, _ in problems(text)] == ["sites[0].kind"]


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("", None, "document"),
        ("- a\n", 1, "document"),
        ("regions: []\n", 1, "schema"),
        ("schema: registry/2\n", 1, "schema"),
        ("schema: registry/1\nvalid_from: 2026-01-01T00:00:00\n", 2, "valid_from"),
        ("schema: registry/1\nvalid_from: 1767225600\n", 2, "valid_from"),
        ("schema: registry/1\nsites: {}\n", 2, "sites"),
        ("schema: registry/1\nsites: text\n", 2, "sites"),
        ("schema: registry/1\nsites: [\n", 3, "document"),
        ("schema: registry/1\nschema: registry/1\n", 2, "schema"),
        ("schema: registry/1\nsites: &a []\nrooms: *a\n", 2, "document"),
        ("schema: registry/1\nsites: !!python/object:os.system []\n", 2, "document"),
    ],
)
def test_broken_document_is_refused_where_it_is_broken(text: str, line: int | None, field: str) -> None:
    assert [(found_line, found) for found_line, found, _ in problems(text)] == [(line, field)]


@pytest.mark.parametrize("field", ["version: 3", "changed_by: me", "valid_to: 2027-01-01T00:00:00Z", "state: removed"])
def test_what_the_platform_sets_is_not_taken_from_a_file(field: str) -> None:
    text = f"schema: registry/1\nregions:\n  - {{id: a, code: 440000, name: A, {field}}}\n"
    assert (3, f"regions[0].{field.partition(':')[0]}", "no value, the platform sets it") in problems(text)


def test_empty_lists_are_fine() -> None:
    assert parse("schema: registry/1\n" + "".join(f"{name}:\n" for name in LISTS)) == []


def test_list_names_are_those_of_the_api() -> None:
    assert set(LISTS) == {
        *("regions", "organisations", "sites", "rooms", "lines", "sims", "devices", "circuits", "bindings", "loads")
    }
    assert all(cls.kind_of in LISTS.values() for cls in (Region, Circuit, Binding))
