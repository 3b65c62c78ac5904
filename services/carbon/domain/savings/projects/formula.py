"""Formulas of measures: arithmetic over named parameters, read without running anything.

    lamps * power_kw * (hours_before - hours_after) * days

Numbers, names, + - * / and parentheses; nothing else is a formula. Every parameter that is given has to be used and
every name has to be given, so that a slip of the pen is refused and not computed.
"""

import ast
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from libs.common.errors import InvalidInput

LENGTH_MAX = 500
RESULT_MAX = 1e15
"""No quantity or amount of a project is larger; a result that is no number is none either."""
NODES_MAX = 200
"""A formula of a measure has a dozen terms; deeper ones would only exhaust the reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A number in a formula, with what it means and where it comes from."""

    name: str
    value: float
    unit: str
    source: str = ""
    """Document, standard or measurement."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Formula:
    """A checked formula."""

    text: str
    names: frozenset[str]
    """The parameters that it needs."""

    @classmethod
    def of(cls, text: str) -> "Formula":
        """Return the formula.

        Raises:
            InvalidInput: It is not arithmetic over names.
        """
        if not text.isascii() or len(text) > LENGTH_MAX:
            raise _wrong(f"expected at most {LENGTH_MAX} ASCII characters", f"应为不超过 {LENGTH_MAX} 个 ASCII 字符")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
            raise _wrong(f"cannot read {text!r}", f"无法识别 {text!r}") from exc
        nodes = list(ast.walk(tree))
        if len(nodes) > NODES_MAX:
            raise _wrong(f"expected at most {NODES_MAX} terms and operators", f"应为不超过 {NODES_MAX} 个项和运算符")
        for node in nodes:
            _check(node, text)
        return cls(text.strip(), frozenset(node.id for node in nodes if isinstance(node, ast.Name)))

    def value(self, parameters: Mapping[str, float]) -> float:
        """Return what the formula gives.

        Raises:
            InvalidInput: A name has no value, something is divided by zero, or the result is beyond ``RESULT_MAX``.
        """
        missing = self.names - parameters.keys()
        if missing:
            names = ", ".join(sorted(missing))
            raise _wrong(f"{self.text}: expected values for {names}", f"{self.text}:缺少参数 {names}")
        try:
            found = _evaluate(ast.parse(self.text, mode="eval").body, parameters)
        except (ZeroDivisionError, OverflowError) as exc:
            raise _wrong(f"{self.text}: division by zero or overflow", f"{self.text}:除以零或溢出") from exc
        if not abs(found) <= RESULT_MAX:
            raise _wrong(
                f"{self.text}: expected a result within ±{RESULT_MAX:g}", f"{self.text}:结果应在 ±{RESULT_MAX:g} 以内"
            )
        return found


def values_of(parameters: Mapping[str, Parameter]) -> dict[str, float]:
    """Return the bare numbers of named parameters."""
    return {name: one.value for name, one in parameters.items()}


def _check(node: ast.AST, text: str) -> None:
    allowed = (ast.BinOp, ast.UnaryOp, ast.Name, ast.Load, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.USub)
    if not _is_number(node) and not isinstance(node, allowed):
        raise _wrong(
            f"{text}: expected numbers, names, + - * / and parentheses, found {type(node).__name__}",
            f"{text}:只能包含数字、参数名、+ - * / 和括号",
        )


def _is_number(node: ast.AST) -> bool:
    """Return whether a node is a number that a float can hold; ``True`` and ``1j`` are none."""
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool):
        return False
    return isinstance(node.value, int | float) and abs(node.value) <= sys.float_info.max


def _evaluate(node: ast.expr, values: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return float(values[name])
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, values)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _evaluate(left, values), _evaluate(right, values)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
    raise _wrong(f"{type(node).__name__} is not arithmetic", "不是算术表达式")


def _wrong(english: str, chinese: str) -> InvalidInput:
    return InvalidInput(f"formula: {english}", message_zh=f"公式:{chinese}")
