"""Revisions that run beside the old release only add; and the judge that says so is right."""

import pytest

from libs.common.migrations import Revision, installed_schemas, revisions
from libs.common.testing.additive import non_additive, statements

ALL = [revision for schema in installed_schemas() for revision in revisions(schema)]


@pytest.mark.parametrize("revision", [one for one in ALL if one.phase == "pre"], ids=lambda one: one.name)
def test_pre_revision_only_adds(revision: Revision) -> None:
    sql = statements(revision)
    assert sql, f"{revision.name} does nothing"
    assert non_additive(sql) == []


@pytest.mark.parametrize("revision", ALL, ids=lambda one: one.name)
def test_revision_is_chained_by_its_number(revision: Revision) -> None:
    text = revision.path.read_text(encoding="utf-8")
    previous = int(revision.number) - 1
    assert f'revision = "{revision.number}"' in text
    assert (f'down_revision = "{previous:04d}"' if previous else "down_revision = None") in text
    assert "def downgrade" not in text, "schema changes go forward only"


@pytest.mark.parametrize(
    "sql",
    [
        "create table t (id int primary key)",
        "create index concurrently i on t (a)",
        "alter table t add column a int",
        "alter table t add column a int not null default 0",
        "ALTER TABLE t ADD COLUMN a numeric(10, 2), add column b text",
        "alter table t alter column a set default 3",
        "alter table t alter column a drop not null",
        "alter table t attach partition t_1 for values in (1)",
        "create or replace function f() returns int language sql as $$ select 1 $$",
        "insert into t values ('drop table t')",
        "-- drop table t\nupdate t set a = 1",
        "comment on table t is 'x'",
    ],
)
def test_statement_that_the_old_release_does_not_notice(sql: str) -> None:
    assert non_additive([sql]) == []


@pytest.mark.parametrize(
    "sql",
    [
        "drop table t",
        "drop index i",
        "truncate t",
        "delete from t",
        "alter table t drop column a",
        "alter table t rename column a to b",
        "alter table t rename to u",
        "alter table t alter column a type bigint",
        "alter table t alter column a set not null",
        "alter table t add column a int not null",
        "alter table t add column a int, drop column b",
        "alter table t add constraint c check (a > 0)",
        "create unique index u on t (a)",
        "create trigger g before insert on t execute function f()",
        "revoke select on t from public",
        "do $$ begin execute 'drop table t'; end $$",
    ],
)
def test_statement_that_the_old_release_could_notice(sql: str) -> None:
    assert len(non_additive([sql])) == 1


def test_what_a_revision_created_itself_it_may_change() -> None:
    created = [
        "create table if not exists t (a int)",
        "create unique index u on t (a)",
        "alter table t add check (a > 0)",
        "create trigger g before update or delete on t execute function f()",
    ]
    assert non_additive(created) == []
    assert len(non_additive([*created, "create unique index v on other (a)"])) == 1
