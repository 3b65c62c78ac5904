"""Feeds: canonical rows, tallies, cuts, what follows from an attempt, and how a destination wants a batch."""

import csv
import hashlib
import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.export.domain.callbacks import Outcome, Verdict
from services.export.domain.feeds import (
    BREAKER_FAILURES,
    PAUSE_CAP_S,
    Destination,
    DestinationKind,
    Feed,
    Format,
    LineMaker,
    Selection,
    cuts,
    ranges,
    standing_after,
)
from services.export.domain.rendering import Batch, problem, render
from services.export.domain.rows import (
    MODULUS,
    Tally,
    day_of,
    decimal_text,
    differences,
    tallies_by_day,
    tally_of,
)

NOW = datetime(2026, 3, 8, 6, 2, 11, tzinfo=UTC)
doubles = st.floats(allow_nan=False, allow_infinity=False)


def line(site: str, device: str, point: str, at: datetime, value: str, quality: str = "") -> str:
    return "\t".join((site, device, point, at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), value, quality))


lines = st.lists(
    st.builds(
        line,
        st.sampled_from(["s-1", "s-2"]),
        st.sampled_from(["m-1", "m-2"]),
        st.sampled_from(["voltage_a", "energy_active_import"]),
        st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 4), timezones=st.just(UTC)),  # noqa: DTZ001
        st.one_of(doubles, st.none()).map(decimal_text),
        st.sampled_from(["", "stale"]),
    ),
    max_size=20,
)


def reading(**changes: object) -> dict[str, object]:
    return {
        "device_id": "m-1", "site_id": "s-1", "source_time": "2026-03-08T06:02:11Z",
        "points": {"voltage_b": 0.1, "voltage_a": 220.0, "frequency": None}, **changes,
    }  # fmt: skip


def feed(**changes: object) -> Feed:
    fields: dict[str, object] = {
        "id": "f", "name": "f", "owner": "user:a", "limits": None, "selection": Selection(), "max_rows": 100,
        "max_wait_s": 10.0, "keep_s": 3600.0, "created_at": NOW, "updated_at": NOW, **changes,
    }  # fmt: skip
    return Feed(**fields)  # type: ignore[arg-type]


def destination(**changes: object) -> Destination:
    fields: dict[str, object] = {
        "id": "d", "feed_id": "f", "name": "d", "kind": DestinationKind.HTTP, "address": {}, "created_at": NOW,
        "updated_at": NOW, **changes,
    }  # fmt: skip
    return Destination(**fields)  # type: ignore[arg-type]


# ---- rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0, "0"), (-0.0, "0"), (220.0, "220"), (0.1, "0.1"), (1e21, "1" + "0" * 21), (1e-7, "0.0000001"),
     (-1.50, "-1.5"), (7, "7"), (10, "10")],
)  # fmt: skip
def test_a_value_is_the_shortest_decimal_without_exponent(value: float | None, text: str) -> None:
    assert decimal_text(value) == text


@given(doubles)
def test_a_decimal_reads_back_as_the_double_it_was_made_of(value: float) -> None:
    text = decimal_text(value)
    assert float(text) == value
    assert "e" not in text.lower()


def test_a_tally_is_what_its_recipe_says() -> None:
    one = "s-1\tm-1\tvoltage_a\t2026-03-08T06:02:11.000000Z\t220.5\t"
    other = "s-1\tm-1\tvoltage_a\t2026-03-08T06:07:11.000000Z\t\tstale"
    tally = tally_of([one, other])
    digests = [int(hashlib.sha256(each.encode()).hexdigest(), 16) for each in (one, other)]
    assert tally.hash == f"{sum(digests) % MODULUS:064x}"
    assert tally.document() == {
        "rows": 2, "hash": tally.hash, "points": {"voltage_a": {"rows": 2, "values": 1, "sum": "220.5"}},
    }  # fmt: skip


@given(lines, lines, st.randoms())
def test_tallies_add_up_in_any_order_and_in_parts(some: list[str], more: list[str], order: object) -> None:
    whole = [*some, *more]
    expected = tally_of(whole)
    parts = Tally()
    parts.add(tally_of(some))
    parts.add(tally_of(more))
    assert parts == expected
    order.shuffle(whole)  # type: ignore[attr-defined]
    assert tally_of(whole) == expected
    assert Tally.of_document(json.loads(json.dumps(expected.document()))) == expected
    by_day = Tally()
    for each in tallies_by_day(whole).values():
        by_day.add(each)
    assert by_day == expected


def test_sums_are_exact_where_doubles_are_not() -> None:
    template = "s\td\tp\t2026-03-08T06:02:11.000000Z\t{}\t"
    tally = tally_of([template.format(value) for value in ("0.1", "0.2", "1" + "0" * 300, "-1" + "0" * 300)])
    assert tally.points["p"].total == Decimal("0.3")


@given(lines.filter(bool), st.data())
def test_what_is_missing_doubled_or_changed_shows(found: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(found) - 1))
    changed = found[place].replace("\tm-1\t", "\tm-3\t").replace("\tm-2\t", "\tm-4\t")
    spoilt = data.draw(
        st.sampled_from([found[:place] + found[place + 1 :], [*found, found[place]],
                         [*found[:place], changed, *found[place + 1 :]]])
    )  # fmt: skip
    assert {each.what for each in differences(tally_of(found), tally_of(spoilt))} >= {"hash"}
    assert list(differences(tally_of(found), tally_of(found))) == []


def test_a_row_belongs_to_the_civil_day_of_its_source_time() -> None:
    evening = line("s", "d", "p", datetime(2026, 3, 8, 15, 59, 59, 999999, tzinfo=UTC), "1")
    midnight = line("s", "d", "p", datetime(2026, 3, 8, 16, tzinfo=UTC), "1")
    assert (day_of(evening), day_of(midnight)) == (date(2026, 3, 8), date(2026, 3, 9))
    assert {day: tally.rows for day, tally in tallies_by_day([evening, midnight]).items()} == {
        date(2026, 3, 8): 1, date(2026, 3, 9): 1,
    }  # fmt: skip


# ---- what is chosen, and how it is cut ----------------------------------------------------------------


def test_a_reading_becomes_a_line_per_chosen_point() -> None:
    found = LineMaker(Selection(points=("voltage_*",))).lines(reading(quality={"voltage_b": "stale"}))
    assert found == [
        "s-1\tm-1\tvoltage_a\t2026-03-08T06:02:11.000000Z\t220\t",
        "s-1\tm-1\tvoltage_b\t2026-03-08T06:02:11.000000Z\t0.1\tstale",
    ]


def test_a_missing_value_is_a_row_without_one() -> None:
    assert LineMaker(Selection(points=("frequency",))).lines(reading())[0].split("\t")[4] == ""


def test_other_devices_have_no_lines() -> None:
    assert LineMaker(Selection(devices=("m-2",))).lines(reading()) == []


@pytest.mark.parametrize(
    "changes", [{"device_id": None}, {"points": []}, {"source_time": "2026-03-08T06:02:11"}, {"source_time": "now"}]
)
def test_what_is_no_reading_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no reading|expected|Invalid"):
        LineMaker(Selection()).lines(reading(**changes))


def test_a_feed_has_a_site_only_if_its_owner_may_see_it() -> None:
    chosen = feed(selection=Selection(sites=("region:gd",)), limits=("s-1",))
    assert chosen.has_place({"s-1", "region:gd"})
    assert not chosen.has_place({"s-2", "region:gd"})
    assert not chosen.has_place({"s-1", "region:bj"})


@given(last=st.integers(0, 99), arrivals=st.lists(st.integers(0, 50), max_size=12), most=st.integers(1, 20))
def test_every_row_is_in_one_batch_and_closed_batches_are_full(last: int, arrivals: list[int], most: int) -> None:
    closed, open_rows = last, 0
    sizes: dict[int, int] = {}
    for arrived in arrivals:
        place = 0
        for cut in cuts(last_closed=closed, open_rows=open_rows, arrived=arrived, max_rows=most):
            assert cut.start == place
            place = cut.end
            sizes[cut.number] = sizes.get(cut.number, 0) + cut.end - cut.start
            if cut.closes:
                assert sizes[cut.number] == most
                closed, open_rows = cut.number, 0
            else:
                open_rows = sizes[cut.number]
        assert place == arrived
    assert sum(sizes.values()) == sum(arrivals)
    assert sorted(sizes) == list(range(last + 1, last + 1 + len(sizes)))


# ---- destinations -------------------------------------------------------------------------------------


def test_waits_double_up_to_their_cap_and_a_success_ends_them() -> None:
    place, waits = destination(), []
    for _ in range(10):
        standing = standing_after(place, Outcome(Verdict.FAILED, 0.1, error="no"), NOW, jitter=0.0)
        assert standing.not_before is not None
        waits.append((standing.not_before - NOW).total_seconds())
        place = destination(failures=standing.failures, failing_since=standing.failing_since)
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, PAUSE_CAP_S, PAUSE_CAP_S]
    assert place.failures >= BREAKER_FAILURES
    standing = standing_after(place, Outcome(Verdict.DELIVERED, 0.1), NOW, jitter=0.0)
    assert (standing.taken, standing.failures, standing.not_before) == (True, 0, None)


def test_a_refusal_is_no_reason_to_go_on_with_the_next() -> None:
    place = destination(failures=100, failing_since=NOW - timedelta(days=9))
    assert not standing_after(place, Outcome(Verdict.REFUSED, 0.1, 400), NOW, jitter=1.0).taken


def test_a_destination_that_asks_for_a_pause_gets_it() -> None:
    standing = standing_after(
        destination(), Outcome(Verdict.FAILED, 0.1, 429, retry_after_s=900.0), NOW, jitter=0.0
    )  # fmt: skip
    assert standing.not_before == NOW + timedelta(seconds=900)


def test_the_rate_of_a_destination_is_kept() -> None:
    standing = standing_after(destination(min_interval_s=5.0), Outcome(Verdict.DELIVERED, 2.0), NOW, jitter=0.0)
    assert standing.not_before == NOW + timedelta(seconds=3)


def test_numbers_are_told_as_ranges() -> None:
    assert ranges([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)]


# ---- how a destination wants a batch ------------------------------------------------------------------

LINES = (
    "s-1\tm-1\tvoltage_a\t2026-03-08T06:02:11.000000Z\t220.5\t",
    "s-1\tm-1\tvoltage_b\t2026-03-08T06:02:11.000000Z\t\tstale",
)
BATCH = Batch("f", 7, tally_of(LINES).hash, LINES)


def test_json_is_an_envelope_with_rows() -> None:
    document = json.loads(render(Format(columns={"sn": "device_id", "v": "value", "src": "=wattring"}), BATCH))
    assert document == {
        "feed": "f", "batch": 7, "hash": BATCH.hash,
        "rows": [{"sn": "m-1", "v": 220.5, "src": "wattring"}, {"sn": "m-1", "v": None, "src": "wattring"}],
    }  # fmt: skip


def test_an_envelope_is_the_destinations_own() -> None:
    format_ = Format(columns={"v": "value"}, numbers=False, envelope={"head": ["$batch", "$count"], "body": "$rows"})
    assert json.loads(render(format_, BATCH)) == {"head": [7, 2], "body": [{"v": "220.5"}, {"v": ""}]}


def test_ndjson_is_a_row_a_line() -> None:
    written = render(Format(kind="ndjson"), BATCH).decode().splitlines()
    assert [json.loads(each)["point"] for each in written] == ["voltage_a", "voltage_b"]


def test_csv_is_read_back_by_another_reader() -> None:
    written = render(Format(kind="csv", columns={"a,b": "point", "值": "value", "t": '=x"y'}), BATCH).decode()
    assert list(csv.reader(io.StringIO(written, newline=""))) == [
        ["a,b", "值", "t"], ["voltage_a", "220.5", 'x"y'], ["voltage_b", "", 'x"y'],
    ]  # fmt: skip


@given(lines)
def test_rows_read_back_from_json_have_the_same_tally(found: list[str]) -> None:
    """What a receiver does who checks: canonical lines from what it was sent."""
    document = json.loads(render(Format(), Batch("f", 1, "", found)))
    again = [
        "\t".join((row["site_id"], row["device_id"], row["point"], row["source_time"], decimal_text(row["value"]),
                   row["quality"]))
        for row in document["rows"]
    ]  # fmt: skip
    assert tally_of(again) == tally_of(found)


@pytest.mark.parametrize(
    ("format_", "expected"),
    [
        (Format(kind="xml"), "kind: expected one of"),
        (Format(columns={}), "columns: expected at least one"),
        (Format(columns={"x": "colour"}), "columns.x: expected one of"),
        (Format(kind="csv", envelope={"a": "$rows"}), "envelope: only json"),
        (Format(envelope={"a": 1}), 'envelope: expected "$rows" once, found it 0 times'),
        (Format(envelope=["$rows", {"b": "$rows"}]), "found it 2 times"),
    ],
)
def test_a_format_that_cannot_be_used_says_why(format_: Format, expected: str) -> None:
    found = problem(format_)
    assert found is not None
    assert expected in found
    assert problem(Format()) is None
