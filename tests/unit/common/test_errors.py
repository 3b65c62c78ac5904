"""The tree of errors: codes are unique and said in two languages; files are told where they are wrong."""

import importlib
import pickle
import pkgutil

import pytest

import libs.common
from libs.common.errors import PROBLEMS_SHOWN, InvalidFile, InvalidInput, NotFound, PlatformError, Problem, Unavailable


def all_errors(root: type[PlatformError] = PlatformError) -> set[type[PlatformError]]:
    found = {root}
    for child in root.__subclasses__():
        found |= all_errors(child)
    return found


@pytest.fixture(scope="module")
def errors() -> set[type[PlatformError]]:
    for module in pkgutil.walk_packages(libs.common.__path__, "libs.common."):
        if ".migrations" not in module.name and ".alembic_env" not in module.name:
            importlib.import_module(module.name)
    return {error for error in all_errors() if error.__module__.startswith("libs.common.")}


def test_every_error_of_the_library_has_a_code_of_its_own(errors: set[type[PlatformError]]) -> None:
    by_code: dict[str, set[str]] = {}
    for error in errors:
        by_code.setdefault(error.code, set()).add(error.__name__)
    assert {code: names for code, names in by_code.items() if len(names) > 1} == {}


def test_every_error_of_the_library_has_a_chinese_title_of_its_own(errors: set[type[PlatformError]]) -> None:
    assert [error.__name__ for error in errors if "title_zh" not in vars(error)] == []
    assert all(any("\u4e00" <= letter <= "\u9fff" for letter in error.title_zh) for error in errors)


def test_an_error_carries_its_message_in_both_languages_and_its_facts() -> None:
    error = NotFound("there is no site s-1", message_zh="没有站点 s-1", site_id="s-1")
    assert (str(error), error.message, error.message_zh) == (
        "there is no site s-1",
        "there is no site s-1",
        "没有站点 s-1",
    )
    assert error.facts == {"site_id": "s-1"}
    assert error.code == "not_found"


def test_an_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(Unavailable("away", message_zh="不可用", place="db")))
    assert (type(error), error.message, error.message_zh, error.facts) == (
        Unavailable,
        "away",
        "不可用",
        {"place": "db"},
    )


def test_a_wrong_file_names_file_line_field_and_what_was_expected() -> None:
    error = InvalidFile(
        "sites.yaml",
        [
            Problem(
                line=12, field="devices[3].ct_ratio", expected="a number above 0", expected_zh="大于 0 的数", found=-5
            ),
            Problem(line=None, field="document", expected="a list of sites"),
        ],
    )
    assert isinstance(error, InvalidInput)
    assert error.message.splitlines() == [
        "sites.yaml: 2 problem(s), nothing was imported",
        "  sites.yaml:12: devices[3].ct_ratio: expected a number above 0, found '-5'",
        "  sites.yaml: document: expected a list of sites",
    ]
    assert error.message_zh is not None
    assert error.message_zh.splitlines() == [
        "sites.yaml:共 2 处错误,未导入任何内容",
        "  sites.yaml:12: devices[3].ct_ratio:应为大于 0 的数,实际为 '-5'",
        "  sites.yaml: document:应为 a list of sites",
    ]
    first, second = error.facts["problems"]
    assert first == {
        "line": 12,
        "field": "devices[3].ct_ratio",
        "expected": "a number above 0",
        "expected_zh": "大于 0 的数",
        "found": "-5",
    }
    assert (second["expected_zh"], second["found"]) == ("a list of sites", None)


def test_a_file_with_endless_mistakes_is_told_in_bounds() -> None:
    wrong = [Problem(line=line, field="kind", expected="a kind", expected_zh="类型") for line in range(1, 100_001)]
    error = InvalidFile("sites.yaml", wrong)
    head, *places, last = error.message.splitlines()
    assert head == "sites.yaml: 100000 problem(s), nothing was imported"
    assert (len(places), last) == (PROBLEMS_SHOWN, f"  … and {100_000 - PROBLEMS_SHOWN} more")
    assert (error.message_zh or "").splitlines()[-1] == f"  …… 另有 {100_000 - PROBLEMS_SHOWN} 处"
    assert (len(error.facts["problems"]), error.facts["problem_count"]) == (PROBLEMS_SHOWN, 100_000)


def test_a_huge_value_does_not_fill_the_message() -> None:
    problem = Problem(line=1, field="name", expected="at most 200 letters", found="x" * 10_000)
    assert len(str(problem)) < 300
    assert len(problem.as_dict()["found"]) == 200
