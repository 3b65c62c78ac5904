"""All factors that there are, every revision, and what of them was known on a day."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date

from libs.common.errors import Conflict, InvalidInput, NotFound
from services.carbon.domain.factors.model import EmissionFactor, Family, Use, family_of
from services.carbon.domain.factors.places import Place
from services.carbon.domain.factors.selection import NONE_ENABLED, Absence, Choice, choose, holding


class RevisionTaken(Conflict):
    """A revision of a factor exists already, and rows are never changed."""

    code = "factor_revision_taken"
    title_zh = "排放因子版本已存在"


class FactorLibrary:
    """Rows, only ever added to.

    ``with_rows`` returns another library, so a calculation keeps the one that it began with.
    """

    def __init__(self, rows: Iterable[EmissionFactor]) -> None:
        """Take rows.

        Raises:
            RevisionTaken: Two rows have the same id and revision.
        """
        self._rows: dict[tuple[str, int], EmissionFactor] = {}
        self._by_series: dict[str, list[EmissionFactor]] = defaultdict(list)
        for row in rows:
            key = (row.factor_id, row.revision)
            if key in self._rows:
                raise RevisionTaken(
                    f"factor {row.factor_id} revision {row.revision} exists already; add a new revision",
                    message_zh=f"排放因子 {row.factor_id} 的第 {row.revision} 版已存在,请新增版本",
                    factor_id=row.factor_id,
                    revision=row.revision,
                )
            self._rows[key] = row
            self._by_series[row.series].append(row)

    @property
    def rows(self) -> Sequence[EmissionFactor]:
        """Every revision of every row, in the order in which they were added."""
        return tuple(self._rows.values())

    def with_rows(self, more: Iterable[EmissionFactor]) -> "FactorLibrary":
        """Return a library with further rows.

        Raises:
            RevisionTaken: One of them exists already.
            InvalidInput: One of them cannot stand: see ``check_revision``.
        """
        added = list(more)
        for row in added:
            check_revision(row, [one for one in self.rows if one.factor_id == row.factor_id])
        return FactorLibrary([*self.rows, *added])

    def revisions(self, factor_id: str) -> Sequence[EmissionFactor]:
        """Return all revisions of a row, oldest first; none when there is no such row."""
        return sorted((row for row in self.rows if row.factor_id == factor_id), key=lambda row: row.revision)

    def series(self, name: str) -> Sequence[EmissionFactor]:
        """Return all revisions of all rows of a series."""
        return tuple(self._by_series.get(name, ()))

    def known_on(self, day: date) -> Sequence[EmissionFactor]:
        """Return the revision of each row that held on a day, by id."""
        return holding(self.rows, day)

    def find(self, factor_id: str, known_on: date) -> EmissionFactor:
        """Return a row by its id as it was known on a day.

        Raises:
            NotFound: There was none.
        """
        held = holding(self.revisions(factor_id), known_on)
        if not held:
            raise NotFound(
                f"there is no factor {factor_id} known on {known_on}",
                message_zh=f"截至 {known_on} 没有排放因子 {factor_id}",
            )
        return held[0]

    def choose(
        self,
        series: str,
        *,
        use: Use,
        place: Place,
        year: int,
        known_on: date,
        unit: str | None = None,
        enabled: frozenset[str] = NONE_ENABLED,
        supplier: str | None = None,
    ) -> Choice | Absence:
        """Return the factor of a place and year as known on a day; see ``selection.choose``."""
        return choose(
            self._by_series.get(series, ()),
            series=series,
            use=use,
            place=place,
            year=year,
            known_on=known_on,
            unit=unit,
            enabled=enabled,
            supplier=supplier,
        )

    def digest(self, day: date) -> str:
        """Return the SHA-256 of what was known on a day, in hexadecimal; see ``digest_of``."""
        return digest_of(self.known_on(day))


def check_revision(row: EmissionFactor, before: Sequence[EmissionFactor]) -> None:
    """Refuse a row that cannot follow its earlier revisions.

    Raises:
        InvalidInput: A supplier's factor without supplier or evidence, an own factor without a person or evidence, a
            negative value, a revision that is not the next, describes something else, or would have been known
            before the one that it replaces.
    """
    _expect(row.value >= 0, row, "value: expected 0 or more", "value:应不小于 0")
    if row.family is Family.SUPPLIER:
        _expect(bool(row.supplier), row, "supplier: expected a name", "supplier:应填写供应商")
    if row.entered_by is not None or row.family is Family.SUPPLIER:
        _expect(bool(row.evidence) or row.withdrawn, row, "evidence: expected a document", "evidence:应提供证明材料")
    named = family_of(row.factor_id)
    _expect(
        named in (row.family, Family.ACTIVITY),
        row,
        f"family: expected {named}, which the id names, found {row.family}",
        f"family:编号表示 {named} 类,实际为 {row.family}",
    )
    _expect(
        not row.series.startswith("grid-") or row.series == f"grid-{row.family}",
        row,
        f"series: expected grid-{row.family}, found {row.series}",
        f"series:应为 grid-{row.family},实际为 {row.series}",
    )
    newest = max(before, key=lambda one: one.revision, default=None)
    expected = 1 if newest is None else newest.revision + 1
    if any(one.revision == row.revision for one in before):
        return  # the library itself refuses it as taken
    _expect(row.revision == expected, row, f"revision: expected {expected}", f"revision:应为 {expected}")
    if newest is None:
        _expect(not row.withdrawn, row, "withdrawn: expected an earlier revision", "withdrawn:没有可撤回的版本")
        return
    _expect(
        (row.series, row.family, row.region, row.data_year, row.unit)
        == (newest.series, newest.family, newest.region, newest.data_year, newest.unit),
        row,
        f"expected series, family, region, year and unit of revision {newest.revision}",
        f"序列、类别、地区、年份和单位应与第 {newest.revision} 版一致",
    )
    _expect(
        row.known_from >= newest.known_from,
        row,
        f"known_from: expected {newest.known_from} or later",
        f"known_from:应不早于 {newest.known_from}",
    )


def digest_of(rows: Iterable[EmissionFactor]) -> str:
    """Return the SHA-256 of factors, in hexadecimal; the order in which they come does not matter.

    One line of JSON per row, sorted by id and revision: id, revision, series, region, year, value as printed,
    unit, day known from, confidence, source.
    """
    lines = sorted(
        json.dumps(
            [
                row.factor_id,
                row.revision,
                row.series,
                row.region,
                row.data_year,
                format(row.value, "f"),
                row.unit,
                row.known_from.isoformat(),
                row.confidence,
                row.source,
            ],
            ensure_ascii=False,
            separators=(",", ":"),
        )
        for row in rows
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _expect(holds: bool, row: EmissionFactor, expected: str, expected_zh: str) -> None:
    if not holds:
        raise InvalidInput(
            f"factor {row.factor_id}: {expected}",
            message_zh=f"排放因子 {row.factor_id}:{expected_zh}",
            factor_id=row.factor_id,
        )
