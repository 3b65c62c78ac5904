"""Who is told of an alarm and when: routes, hours, groups as Alertmanager has them, reminders and escalation."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.alarm.domain.grouping import Decision, Group, Kind, Member, MemberState, decide, news_due
from services.alarm.domain.routing import GroupBy, Hours, Match, Route, Step, Subject, routes_for
from services.alarm.domain.wording import LINES, Names, words_for

NOON = datetime(2026, 3, 2, 4, tzinfo=UTC)
"""A Monday, 12:00 in Shanghai."""
NIGHT = (Hours(time(22), time(7)),)
NAMES = Names(site=lambda one, _: one, device=lambda one, _: one, signal=lambda one, _: one)


def subject(**changes: object) -> Subject:
    return replace(Subject("a-1", "site-1", "0s16001001", 2, ("r-1", "r-0"), "D", "meter_3p"), **changes)  # type: ignore[arg-type]


def member(alarm_id: str = "a-1", **changes: object) -> Member:
    return replace(Member(alarm_id, "site-1", "m-1", "0s16001001", 2, NOON, 1), **changes)  # type: ignore[arg-type]


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


class TestRoutes:
    @pytest.mark.parametrize(
        ("match", "taken"),
        [
            pytest.param(Match(), True, id="all"),
            pytest.param(Match(regions=frozenset({"r-0"})), True, id="a region above"),
            pytest.param(Match(regions=frozenset({"r-9"})), False, id="another region"),
            pytest.param(Match(sites=frozenset({"site-2"})), False, id="another site"),
            pytest.param(Match(levels=frozenset({1})), False, id="another level"),
            pytest.param(Match(signals=("0s16*",)), True, id="signals that begin so"),
            pytest.param(Match(signals=("0s16",)), False, id="no beginning without a star"),
            pytest.param(Match(device_kinds=frozenset({"air_conditioner"})), False, id="another kind"),
            pytest.param(Match(station_classes=frozenset({"D"})), True, id="class"),
        ],
    )
    def test_a_route_takes_what_matches_all_it_names(self, match: Match, taken: bool) -> None:
        route = Route("r", 1, ("c",), match)
        assert routes_for([route], subject(), NOON) == ([route] if taken else [])

    def test_the_first_that_matches_takes_the_alarm_unless_it_lets_others(self) -> None:
        last = Route("c", 3, ("c",))
        middle = Route("b", 2, ("b",), continues=True)
        first = Route("a", 1, ("a",), Match(levels=frozenset({1})))
        assert routes_for([last, middle, first], subject(), NOON) == [middle, last]
        assert routes_for([last, middle, first], subject(level=1), NOON) == [first]

    def test_a_route_counts_at_its_hours_in_its_own_zone(self) -> None:
        route = Route("r", 1, ("c",), times=(Hours(time(8), time(18), frozenset({0})),))
        assert route.counts_at(NOON)
        assert not route.counts_at(NOON + timedelta(hours=6))
        assert not route.counts_at(NOON + timedelta(days=1))
        assert not replace(route, zone="America/New_York").counts_at(NOON)

    def test_hours_over_midnight_belong_to_the_day_they_begin_on(self) -> None:
        friday_night = Hours(time(22), time(6), frozenset({4}))
        saturday = datetime(2026, 3, 7, 5, 59, tzinfo=UTC)
        assert friday_night.ends_at(saturday) == datetime(2026, 3, 7, 6, tzinfo=UTC)
        assert friday_night.ends_at(saturday + timedelta(minutes=1)) is None
        assert friday_night.ends_at(saturday - timedelta(days=1)) is None

    def test_groups_have_in_common_what_the_route_says(self) -> None:
        route = Route("r", 1, ("c",), group_by=(GroupBy.REGION, GroupBy.LEVEL))
        assert route.key_of(subject()) == "region=r-1,level=2"
        assert route.group_of(subject()) == route.group_of(subject(site_id="site-2"))
        assert route.group_of(subject()) != route.group_of(subject(level=1))


class Story:
    """A group on its own, looked at when it wants to be."""

    def __init__(self, route: Route, *members: Member) -> None:
        self.route = route
        self.members = {one.alarm_id: one for one in members}
        self.group = Group("g", news_due(route, Group("g", None), NOON))
        self.next_at: datetime | None = self.group.news_at

    def look(self, now: datetime) -> Decision:
        decision = decide(self.route, self.group, self.members.values(), now)
        self.members |= {one.alarm_id: one for one in decision.changed}
        for alarm_id in decision.gone:
            del self.members[alarm_id]
        self.group, self.next_at = decision.group, decision.next_at
        return decision

    def told(self, now: datetime) -> list[tuple[str, str, list[str], list[str]]]:
        return [
            (t.kind.value, t.channel_id, [m.alarm_id for m in t.begins], [m.alarm_id for m in t.ends])
            for t in self.look(now).tellings
        ]

    def news(self, one: Member, now: datetime) -> None:
        self.members[one.alarm_id] = one
        self.group = replace(self.group, news_at=news_due(self.route, self.group, now))


class TestGroups:
    def test_a_group_waits_then_tells_news_at_intervals_and_repeats(self) -> None:
        story = Story(Route("r", 1, ("c",)), member())
        assert story.told(after(29)) == []
        assert story.told(after(30)) == [("news", "c", ["a-1"], [])]
        assert story.next_at == after(30 + 4 * 3600)
        story.news(member("a-2"), after(60))
        assert story.told(after(329)) == []
        assert story.told(after(330)) == [("news", "c", ["a-2"], [])]
        assert story.told(after(330 + 4 * 3600 - 1)) == []
        assert story.told(after(330 + 4 * 3600)) == [("reminder", "c", ["a-1", "a-2"], [])]

    def test_an_end_is_told_to_whom_the_begin_was_told_though_the_route_has_changed(self) -> None:
        story = Story(Route("r", 1, ("c", "d")), member())
        story.look(after(30))
        story.route = replace(story.route, channels=("e",))
        story.news(replace(story.members["a-1"], state=MemberState.ENDED, ended_at=after(40)), after(40))
        assert story.told(after(330)) == [("news", "c", [], ["a-1"]), ("news", "d", [], ["a-1"])]
        assert story.members == {}

    def test_what_is_inhibited_is_not_told_and_nobody_is_reminded_of_it(self) -> None:
        story = Story(Route("r", 1, ("c",)), member(inhibited=True), member("a-2"))
        assert story.told(after(30)) == [("news", "c", ["a-2"], [])]
        story.members["a-2"] = replace(story.members["a-2"], inhibited=True)
        assert story.told(after(30 + 4 * 3600)) == []

    def test_quiet_hours_hold_all_but_the_worst_and_tell_the_rest_afterwards_if_it_lasts(self) -> None:
        midnight = NOON + timedelta(hours=12)
        story = Story(Route("r", 1, ("c",), quiet=NIGHT), member(level=1), member("a-2"), member("a-3"))
        story.group = replace(story.group, news_at=midnight)
        assert story.told(midnight) == [("news", "c", ["a-1"], [])]
        morning = NOON + timedelta(hours=19)
        assert story.group.news_at == morning
        del story.members["a-3"]  # it ended before anybody was told
        story.members["a-1"] = replace(story.members["a-1"], acknowledged=True)
        assert story.told(morning) == [("news", "c", ["a-2"], [])]

    def test_what_quiet_hours_hold_does_not_hold_what_is_bad_enough_and_comes_later(self) -> None:
        midnight = NOON + timedelta(hours=12)
        story = Story(Route("r", 1, ("c",), quiet=NIGHT), member(level=3))
        story.group = replace(story.group, news_at=midnight)
        assert story.told(midnight) == []
        story.news(member("a-2", level=1), midnight + timedelta(hours=1))
        assert story.told(midnight + timedelta(hours=1, seconds=30)) == [("news", "c", ["a-2"], [])]
        assert story.next_at is not None
        morning = NOON + timedelta(hours=19)
        assert story.group.news_at == morning
        assert story.told(morning) == [("news", "c", ["a-1"], [])]

    def test_nobody_is_called_in_quiet_hours_but_for_the_worst(self) -> None:
        evening, morning = NOON + timedelta(hours=9), NOON + timedelta(hours=19)
        route = Route("r", 1, ("c",), quiet=NIGHT, escalation=(Step(7200, ("boss",)),), repeat_interval_s=0.0)
        story = Story(route, member(level=1), member("a-2", level=3))
        story.group = replace(story.group, news_at=evening)
        story.look(evening)
        assert story.told(evening + timedelta(hours=2)) == [("escalation", "boss", ["a-1"], [])]
        assert story.next_at == morning
        assert story.told(morning) == [("escalation", "boss", ["a-2"], [])]

    def test_escalation_goes_on_step_by_step_until_somebody_acknowledges(self) -> None:
        steps = (Step(600, ("boss",)), Step(1800, ("boss", "director")))
        story = Story(Route("r", 1, ("c",), escalation=steps), member(), member("a-2"))
        story.look(after(30))
        assert story.next_at == after(630)
        assert story.told(after(630)) == [("escalation", "boss", ["a-1", "a-2"], [])]
        story.members["a-2"] = replace(story.members["a-2"], acknowledged=True)
        assert story.told(after(1830)) == [
            ("escalation", "boss", ["a-1"], []),
            ("escalation", "director", ["a-1"], []),
        ]
        assert story.told(after(3000)) == []
        story.news(replace(story.members["a-1"], state=MemberState.ENDED, ended_at=after(3000)), after(3000))
        assert [channel for _, channel, _, _ in story.told(after(3000))] == ["c", "boss", "director"]

    def test_a_digest_tells_everything_at_its_times_what_came_and_went_too(self) -> None:
        route = Route("r", 1, ("c",), digest_at=(time(8), time(18)))
        story = Story(route, member(), member("a-2", ended_at=after(60)))
        evening = NOON + timedelta(hours=6)
        assert story.next_at == evening
        assert story.told(evening) == [("digest", "c", ["a-1", "a-2"], [])]
        assert list(story.members) == ["a-1"]
        assert story.told(evening + timedelta(days=3)) == []

    def test_what_became_worse_is_told_again(self) -> None:
        story = Story(Route("r", 1, ("c",)), member(level=3))
        story.look(after(30))
        story.news(replace(story.members["a-1"], level=1, state=MemberState.WAITING), after(100))
        assert story.told(after(330)) == [("news", "c", ["a-1"], [])]
        assert story.members["a-1"].told_at == after(30)

    @given(
        st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 900)), max_size=40),
        st.sampled_from([(), (Step(120, ("b",)),)]),
    )
    def test_whatever_happens_a_begin_is_told_once_and_an_end_only_after_it(
        self, steps: list[tuple[int, bool, int]], escalation: tuple[Step, ...]
    ) -> None:
        story = Story(Route("r", 1, ("c",), repeat_interval_s=0.0, escalation=escalation))
        now, active, number, told = NOON, {}, 0, []
        for slot, begins, gap in [*steps, (0, False, 9000)]:
            now += timedelta(seconds=gap)
            while story.next_at is not None and story.next_at <= now:
                told += [(t.kind, t.begins, t.ends) for t in story.look(story.next_at).tellings]
            if begins and slot not in active:
                number += 1
                active[slot] = f"a-{number}"
                story.news(member(f"a-{number}"), now)
            elif not begins and slot in active:
                known = story.members.pop(active.pop(slot))
                if known.told_to:
                    story.news(replace(known, state=MemberState.ENDED, ended_at=now), now)
            story.next_at = min(at for at in (story.group.news_at, story.next_at, now) if at is not None)
        begun = [m.alarm_id for kind, begins, _ in told if kind is Kind.NEWS for m in begins]
        ended = [m.alarm_id for kind, _, ends in told if kind is Kind.NEWS for m in ends]
        assert len(begun) == len(set(begun))
        assert set(ended) <= set(begun)


class TestWords:
    def test_a_message_counts_by_level_and_names_the_worst(self) -> None:
        begins = [member(f"a-{n}", level=3, text="Power failure", text_zh="停电告警") for n in range(LINES + 3)]
        begins.append(member("worst", site_id="site-9", level=1, text_zh="停电告警"))
        story = Story(Route("r", 1, ("c",)), *begins)
        (telling,) = story.look(after(30)).tellings
        zh = words_for(telling, NAMES, story.route.local, "zh")
        assert zh.title == "【告警】1 级 1 条，3 级 18 条"
        lines = zh.text.splitlines()
        assert lines[1] == "[1 级] site-9 m-1 停电告警 03-02 12:00:00"
        assert lines[-1] == "……另有 4 条"
        en = words_for(telling, NAMES, story.route.local, "en")
        assert en.title == "[Alarms] 1 of level 1, 18 of level 3"
        assert en.text.splitlines()[-1] == "… and 4 more"

    def test_an_end_says_from_when_to_when(self) -> None:
        story = Story(Route("r", 1, ("c",)), member(text="Power failure"))
        story.look(after(30))
        story.news(replace(story.members["a-1"], state=MemberState.ENDED, ended_at=after(90)), after(90))
        (telling,) = story.look(after(330)).tellings
        words = words_for(telling, NAMES, story.route.local, "en")
        assert words.text.splitlines()[1] == "[ended] site-1 m-1: Power failure 03-02 12:00:00 to 03-02 12:01:30"
