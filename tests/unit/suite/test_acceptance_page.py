"""The acceptance page has each item once, in the order of the numbers, with a command whose files exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
ROWS = re.findall(r"^\| ([A-Z])-(\d+) \|(.*)$", (ROOT / "docs" / "acceptance.md").read_text("utf-8"), re.MULTILINE)


def test_every_item_stands_once_in_the_order_of_its_number() -> None:
    for section in dict.fromkeys(letter for letter, _, _ in ROWS):
        numbers = [int(number) for letter, number, _ in ROWS if letter == section]
        assert numbers == sorted(set(numbers)), f"section {section}"


def test_the_files_that_commands_name_exist() -> None:
    named = {path for _, _, row in ROWS for path in re.findall(r"tests/[\w./-]*\w", row)}
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
