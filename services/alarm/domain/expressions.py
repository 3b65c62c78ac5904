"""Formulas over the points of one device, such as ``active_power_total / (active_power_a + 0.01)``.

A formula gives one number, which the rule compares with its threshold; comparisons and ``and``, ``or``, ``not``
give 1 or 0. It is parsed by Python's own parser and then translated, node by node, from a short list of what is
allowed into functions on whole columns: nothing of it is ever executed as Python. A value that is missing or bad,
or a division by zero, leaves the result open.

    numbers, names of points   + - * / ( )   < <= > >= == !=   and or not
    abs(x)  sqrt(x)  min(x, y, …)  max(x, y, …)  if_else(condition, x, y)
"""

import ast
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_LENGTH = 500
"""Characters of a formula."""
MAX_NODES = 100
"""Numbers, names and operations in a formula."""
MAX_DEPTH = 20

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, Floats]
_Column = Callable[[Columns], Floats | float]


class InvalidExpression(ValueError):
    """A formula is refused."""

    def __init__(self, expected: str, expected_zh: str, found: str) -> None:
        """Say what was expected, in both languages, and what stands there."""
        super().__init__(f"expected {expected}, found {found}")
        self.expected = expected
        self.expected_zh = expected_zh
        self.found = found


@dataclass(frozen=True, slots=True)
class Expression:
    """A formula that is allowed."""

    text: str
    points: tuple[str, ...]
    """Names in it, sorted."""
    _column: _Column

    def values(self, columns: Columns, count: int) -> Floats:
        """Return the result of each report, shape (count,), NaN where it is open.

        Args:
            columns: Point to its values, shape (count,), NaN where unknown.
            count: Number of reports.
        """
        with np.errstate(all="ignore"):
            found = np.array(np.broadcast_to(np.asarray(self._column(columns), dtype=np.float64), (count,)))
        found[~np.isfinite(found)] = np.nan
        return found


def parse(text: str, known: Collection[str]) -> Expression:
    """Return the formula in ``text``.

    Args:
        text: What somebody wrote.
        known: Names of the points that may stand in it.

    Raises:
        InvalidExpression: It is no formula, names something unknown, or is too long; says what was expected.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidExpression(
            f"at most {MAX_LENGTH} characters", f"不超过 {MAX_LENGTH} 个字符", f"{len(text)} characters"
        )
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        where = f" at character {exc.offset}" if isinstance(exc, SyntaxError) and exc.offset else ""
        raise InvalidExpression("a formula", "计算公式", f"{text!r}{where}") from None
    nodes = sum(1 for node in ast.walk(tree) if isinstance(node, ast.expr))
    if nodes > MAX_NODES:
        raise InvalidExpression(f"at most {MAX_NODES} terms", f"不超过 {MAX_NODES} 项", f"{nodes} terms")
    points: set[str] = set()
    column = _Translator(text.strip(), known, points).column(tree.body, MAX_DEPTH)
    if not points:
        raise InvalidExpression("at least one point", "至少包含一个测点", repr(text))
    return Expression(text.strip(), tuple(sorted(points)), column)


class _Translator:
    """Turns nodes of one formula into functions on columns."""

    def __init__(self, text: str, known: Collection[str], points: set[str]) -> None:
        self._text = text
        self._known = known
        self._points = points

    def column(self, node: ast.expr, depth: int) -> _Column:
        if depth == 0:
            raise InvalidExpression(f"at most {MAX_DEPTH} levels of brackets", f"嵌套不超过 {MAX_DEPTH} 层", self._text)
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return self._number(value, node)
            case ast.Name(id=name):
                return self._point(name)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _two(_ARITHMETIC[type(op)], self.column(left, depth - 1), self.column(right, depth - 1))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return _each(_UNARY[type(op)], [self.column(operand, depth - 1)])
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
                return _two(_COMPARISONS[type(op)], self.column(left, depth - 1), self.column(right, depth - 1))
            case ast.BoolOp(op=op, values=values):
                return _each(_LOGIC[type(op)], [self.column(value, depth - 1) for value in values])
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                return self._call(name, args, depth)
        raise InvalidExpression(
            "numbers, points, + - * /, comparisons, and, or, not, and the functions " + ", ".join(_FUNCTIONS),
            "数字、测点、+ - * /、比较、and、or、not 以及函数 " + "、".join(_FUNCTIONS),
            ast.get_source_segment(self._text, node) or type(node).__name__,
        )

    def _number(self, value: float, node: ast.expr) -> _Column:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            found = (ast.get_source_segment(self._text, node) or "")[:40]
            raise InvalidExpression("a finite number", "有限数值", found)
        return lambda columns: number

    def _point(self, name: str) -> _Column:
        if name not in self._known:
            raise InvalidExpression("the name of a numeric point", "数值型测点名称", name)
        self._points.add(name)
        return lambda columns: columns[name]

    def _call(self, name: str, args: Sequence[ast.expr], depth: int) -> _Column:
        function, least, most = _FUNCTIONS[name]
        if not least <= len(args) <= most:
            count = str(least) if least == most else f"{least} to {most}"
            count_zh = str(least) if least == most else f"{least} 至 {most}"
            raise InvalidExpression(
                f"{name} with {count} arguments", f"{name} 需 {count_zh} 个参数", f"{len(args)} arguments"
            )
        return _each(function, [self.column(arg, depth - 1) for arg in args])


def _two(function: Callable[[Floats, Floats], Floats], left: _Column, right: _Column) -> _Column:
    return lambda columns: function(np.asarray(left(columns)), np.asarray(right(columns)))


def _each(function: Callable[..., Floats], parts: Sequence[_Column]) -> _Column:
    return lambda columns: function(*(np.asarray(part(columns)) for part in parts))


def _known_only(result: npt.NDArray[np.bool_], *inputs: Floats) -> Floats:
    """Return 1 or 0, NaN where an input is unknown: NaN itself compares as false."""
    unknown = np.zeros(np.shape(result), dtype=bool)
    for one in inputs:
        unknown = unknown | np.isnan(one)
    return np.where(unknown, np.nan, result.astype(np.float64))


def _compared(compare: Callable[[Floats, Floats], npt.NDArray[np.bool_]]) -> Callable[[Floats, Floats], Floats]:
    return lambda left, right: _known_only(np.asarray(compare(left, right)), left, right)


def _divide(left: Floats, right: Floats) -> Floats:
    """Return the quotient, NaN where nothing can be divided by: an infinite one would settle comparisons."""
    return np.where(right == 0, np.nan, np.divide(left, right))


def _and(*parts: Floats) -> Floats:
    """Return whether all hold; one that does not settles it, whatever the unknown ones are."""
    result: Floats = np.asarray(1.0)
    for part in parts:
        false = (result == 0) | (part == 0)
        open_ = np.isnan(result) | np.isnan(part)
        result = np.where(false, 0.0, np.where(open_, np.nan, 1.0))
    return result


def _or(*parts: Floats) -> Floats:
    return 1.0 - _and(*(_not(part) for part in parts))


def _not(part: Floats) -> Floats:
    return _known_only(np.asarray(part == 0), part)


def _if_else(condition: Floats, then: Floats, otherwise: Floats) -> Floats:
    return np.where(np.isnan(condition), np.nan, np.where(condition != 0, then, otherwise))


def _least(*parts: Floats) -> Floats:
    result = parts[0]
    for part in parts[1:]:
        result = np.minimum(result, part)
    return result


def _greatest(*parts: Floats) -> Floats:
    result = parts[0]
    for part in parts[1:]:
        result = np.maximum(result, part)
    return result


_ARITHMETIC: Mapping[type[ast.operator], Callable[[Floats, Floats], Floats]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: _divide,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Floats], Floats]] = {
    ast.USub: np.negative,
    ast.UAdd: np.positive,
    ast.Not: _not,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Floats, Floats], Floats]] = {
    ast.Lt: _compared(np.less),
    ast.LtE: _compared(np.less_equal),
    ast.Gt: _compared(np.greater),
    ast.GtE: _compared(np.greater_equal),
    ast.Eq: _compared(np.equal),
    ast.NotEq: _compared(np.not_equal),
}
_LOGIC: Mapping[type[ast.boolop], Callable[..., Floats]] = {ast.And: _and, ast.Or: _or}
_FUNCTIONS: Mapping[str, tuple[Callable[..., Floats], int, int]] = {
    "abs": (np.abs, 1, 1),
    "sqrt": (np.sqrt, 1, 1),
    "min": (_least, 2, 10),
    "max": (_greatest, 2, 10),
    "if_else": (_if_else, 3, 3),
}
"""Name to function and how many arguments it takes."""
