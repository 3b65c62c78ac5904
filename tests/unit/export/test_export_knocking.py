"""When refused messages of one address are too many to be a mistake."""

from services.export.domain.knocking import LIMIT, MOST_PEERS, WINDOW_S, Knocking


def test_told_at_the_limit_within_the_window_and_again_after_as_many() -> None:
    knocking = Knocking()
    assert [knocking.refused("a", second) for second in range(2 * LIMIT)] == ([False] * (LIMIT - 1) + [True]) * 2


def test_what_is_spread_over_more_than_the_window_is_not_told() -> None:
    knocking = Knocking()
    apart_s = WINDOW_S / (LIMIT - 1) + 0.1
    assert not any(knocking.refused("a", n * apart_s) for n in range(5 * LIMIT))


def test_addresses_are_counted_apart_and_are_bounded() -> None:
    knocking = Knocking()
    for _ in range(LIMIT - 1):
        assert not knocking.refused("a", 0.0)
    assert not knocking.refused("b", 0.0)
    assert knocking.refused("a", 1.0)
    for _ in range(LIMIT - 1):
        assert not knocking.refused("c", 0.0)
    for number in range(MOST_PEERS):
        knocking.refused(f"n{number}", 0.0)
    assert not knocking.refused("c", 1.0), "the one silent for longest was forgotten"
