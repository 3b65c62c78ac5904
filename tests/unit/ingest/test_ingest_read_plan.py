"""Read plans: few requests, none too long, no value cut."""

from hypothesis import given
from hypothesis import strategies as st

from libs.common.profiles import Area, ProfileCatalogue
from services.ingest.domain.read_plan import MAX_BITS, Block, Span, plan, split


def spans_of(*places: tuple[int, int], area: Area = Area.HOLDING) -> list[Span]:
    return [Span(area, start, count, f"p{i}") for i, (start, count) in enumerate(places)]


def shape(blocks: tuple[Block, ...]) -> list[tuple[int, int]]:
    return [(block.start, block.count) for block in blocks]


def test_neighbours_are_merged_over_small_gaps_and_not_over_large_ones() -> None:
    spans = spans_of((0, 2), (2, 2), (20, 2), (39, 2))
    assert shape(plan(spans, max_gap=16)) == [(0, 22), (39, 2)]


def test_block_never_exceeds_what_the_device_takes() -> None:
    assert shape(plan(spans_of(*((i, 2) for i in range(0, 100, 2))), max_registers=30)) == [
        (0, 30), (30, 30), (60, 30), (90, 10),
    ]  # fmt: skip


def test_points_on_one_register_are_read_once() -> None:
    (block,) = plan(spans_of((0, 1), (0, 1), (0, 1)), max_registers=1)
    assert (block.count, len(block.spans)) == (1, 3)


def test_areas_are_never_mixed() -> None:
    blocks = plan([*spans_of((0, 2)), *spans_of((2, 2), area=Area.INPUT)])
    assert [block.area for block in blocks] == [Area.HOLDING, Area.INPUT]


def test_split_is_at_the_widest_gap_and_keeps_every_point() -> None:
    (block,) = plan(spans_of((0, 2), (4, 2), (14, 2), (18, 2)))
    first, second = split(block)
    assert (shape((first, second)), len(first.spans), len(second.spans)) == ([(0, 6), (14, 6)], 2, 2)


def test_block_of_one_value_cannot_be_split() -> None:
    (block,) = plan(spans_of((0, 4)))
    assert split(block) == (block,)


def test_every_shipped_modbus_profile_is_read_within_its_own_limit() -> None:
    for profile in ProfileCatalogue.load():
        spans = [Span(point.area, point.address, point.count, point.name) for point in profile.modbus_points()]
        for block in plan(spans, max_registers=profile.max_registers_per_read):
            limit = (
                MAX_BITS
                if block.area.is_bits
                else max(profile.max_registers_per_read, max(s.count for s in block.spans))
            )
            assert block.count <= limit, (profile.name, block)


places = st.lists(
    st.tuples(st.integers(0, 300), st.sampled_from([1, 1, 2, 4]), st.sampled_from([Area.HOLDING, Area.INPUT])),
    max_size=40,
)


@given(places, st.integers(4, 125), st.integers(0, 20))
def test_plan_reads_every_point_whole_and_within_the_limit(
    found: list[tuple[int, int, Area]], longest: int, gap: int
) -> None:
    spans = [Span(area, start, count, f"p{i}") for i, (start, count, area) in enumerate(found)]
    blocks = plan(spans, max_registers=longest, max_gap=gap)
    assert sorted(span for block in blocks for span in block.spans) == sorted(spans)
    for block in blocks:
        assert block.count <= longest
        assert all(
            block.area is span.area and block.start <= span.start and span.end <= block.end for span in block.spans
        )


@given(places)
def test_splitting_again_and_again_ends_and_loses_nothing(found: list[tuple[int, int, Area]]) -> None:
    todo = list(plan([Span(area, start, count, f"p{i}") for i, (start, count, area) in enumerate(found)]))
    wanted = sorted(span for block in todo for span in block.spans)
    done: list[Block] = []
    while todo:
        parts = split(todo.pop())
        if len(parts) == 1:
            done += parts
        else:
            todo += parts
    assert sorted(span for block in done for span in block.spans) == wanted
