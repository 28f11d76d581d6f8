"""Jinja for templates that strangers wrote: no access to Python, a bound on steps, on text and on processor time.

A downloaded chat template is a program. Jinja's sandbox keeps it from Python's internals but lets it loop
100,000 x 100,000 times or ask for ``'a'.ljust(10**12)``. Here every turn of a loop and every call of a macro draws on a
budget, only known filters and methods exist, and whatever can make text grow is measured before it is made.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lit_llm.errors import UserError

MAX_SOURCE = 200_000  # characters of a template; the longest known ones have 20,000
MAX_STEPS = 200_000  # turns of loops and calls of macros, plus the constant text they write
MAX_SECONDS = 5.0  # of a processor: the clock runs on while others have it
MAX_NUMBER = 1_000_000
MAX_DEPTH = 32  # of lists and objects; a tool's schema has up to 20
DAY = datetime(2024, 7, 26)
# fmt: off
_FILTERS = (
    "abs", "batch", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "format",
    "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr",
    "replace", "reverse", "round", "safe", "select", "selectattr", "sort", "string", "strip", "sum", "title", "tojson",
    "trim", "unique", "upper",
)
_METHODS = frozenset((
    "capitalize", "count", "endswith", "find", "format", "get", "index", "isalpha", "isdigit", "items", "join", "keys",
    "lower", "lstrip", "removeprefix", "removesuffix", "replace", "rfind", "rsplit", "rstrip", "split", "splitlines",
    "startswith", "strip", "title", "upper", "values",
))
# fmt: on


class BudgetError(TemplateError):
    """The template loops, or writes, beyond what any conversation needs."""


class _Budget(threading.local):
    steps = 0
    characters = 0
    deadline = 0.0


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment. One object may render in many threads."""

    intercepted_binops = frozenset(["*", "**", "+", "%", "//"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, finalize=self._count)
        self.add_extension(loopcontrols)
        self.budget = _Budget()
        self.limit = 0
        self.globals = {
            "range": self.globals["range"],
            "namespace": self.globals["namespace"],
            "dict": dict,
            "raise_exception": _raise,
            "strftime_now": _date,
        }
        kept = {name: self.filters[name] for name in _FILTERS if name in self.filters}
        kept |= {"strip": self.filters["trim"], "join": _join, "replace": _replace, "tojson": _to_json, "safe": str}
        self.filters = {name: self._guarded(name, function) for name, function in kept.items()}
        self.filters["_tick"], self.filters["_shallow"] = self._tick, _shallow

    # ---- the budget ------------------------------------------------------------------------------------------------

    def render_text(self, template: Any, variables: Mapping[str, Any]) -> str:
        """Render within the budget. Raises ``TemplateError`` and Python's own errors; the caller words them."""
        size = _size(variables.get("messages", ())) + len(str(variables.get("tools") or ""))
        self.budget.steps, self.budget.characters = MAX_STEPS + size, MAX_NUMBER + 20 * size
        self.budget.deadline = time.thread_time() + MAX_SECONDS
        return str(template.render(**variables))

    def _tick(self, cost: int) -> str:
        self.budget.steps -= 1 + cost // 16
        if self.budget.steps < 0:
            raise BudgetError("it loops too often")
        self._on_time()
        return ""

    def _on_time(self) -> None:
        if time.thread_time() > self.budget.deadline:
            raise BudgetError(f"it takes more than {MAX_SECONDS:g} seconds of a processor")

    @pass_context  # without it jinja2 would call this while compiling
    def _count(self, _context: Any, value: Any) -> Any:
        """Every printed value passes here."""
        if not isinstance(value, (str, int, float, bool, type(None))) and not hasattr(value, "__html__"):
            _shallow(value)
        text = value if isinstance(value, str) else str(value)
        self.budget.characters -= len(text)
        if self.budget.characters < 0:
            raise BudgetError("it writes too much text")
        return value

    # ---- what may be called ----------------------------------------------------------------------------------------

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **kwargs: Any) -> Any:
            self._on_time()
            _check_arguments(args, kwargs)
            if name == "format":
                _check_format(args[0])
            return _bounded(function(*args, **kwargs))

        for mark in ("jinja_pass_arg",):  # jinja2 finds there that a filter wants the environment
            if hasattr(function, mark):
                setattr(checked, mark, getattr(function, mark))
        return checked

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, (str, list, tuple, dict)) and callable(value) and attr not in _METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  (jinja2's signature)
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        __self._on_time()
        _check_arguments(args, kwargs)
        if isinstance(owner, str):
            if name == "replace":
                return _replace(owner, *args, **kwargs)
            if name == "join":
                return _join(args[0], owner)
            if name in ("format", "format_map"):
                _check_format(owner)
        return _bounded(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator in ("*", "**") and not (_small(left, 1e9) and _small(right, 1e9 if operator == "*" else 64)):
            raise SecurityError(f"'{operator}' of {type(left).__name__} and {type(right).__name__} is not allowed here")
        self._on_time()
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        return _bounded(super().call_binop(context, operator, left, right))

    # ---- the program's text ----------------------------------------------------------------------------------------

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Put a tick into every loop and macro, and the guarded filters where an operator would escape them."""
        if len(source) > MAX_SOURCE:
            raise BudgetError(f"its source has {len(source)} characters, more than {MAX_SOURCE}")
        tree = super()._parse(source, name, filename)
        for banned in (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends):
            if tree.find(banned) is not None:
                raise SecurityError("it loads other files")
        _Rewriter().visit(tree)
        return tree


class _Rewriter:
    def visit(self, node: nodes.Node) -> nodes.Node:
        for field, value in node.iter_fields():
            if isinstance(value, list):
                setattr(node, field, [self.visit(v) if isinstance(v, nodes.Node) else v for v in value])
            elif isinstance(value, nodes.Node):
                setattr(node, field, self.visit(value))
        if isinstance(node, (nodes.For, nodes.Macro, nodes.CallBlock)):
            text = sum(len(data.data) for part in node.body for data in part.find_all(nodes.TemplateData))
            tick = nodes.Filter(nodes.Const(text), "_tick", [], [], None, None, lineno=node.lineno)
            node.body = [nodes.ExprStmt(tick, lineno=node.lineno), *node.body]
        if isinstance(node, nodes.Concat):
            items = nodes.List(node.nodes, lineno=node.lineno)
            return nodes.Filter(items, "join", [], [], None, None, lineno=node.lineno)
        if isinstance(node, (nodes.List, nodes.Tuple, nodes.Dict)) and getattr(node, "ctx", "load") == "load":
            return nodes.Filter(node, "_shallow", [], [], None, None, lineno=node.lineno)
        return node


@contextmanager
def worded(name: str = "chat template") -> Iterator[None]:
    """Any failure of a template as one line with its name. It is a stranger's program: it may raise anything."""
    try:
        yield
    except UserError:
        raise
    except (Exception, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{name}{f' line {line}' if line else ''}: {what}") from None


def _raise(message: str) -> None:
    raise TemplateError(str(message)[:300])


def _date(form: str) -> str:
    """``strftime_now``: always the same day (Llama 3.2's own default), so that ids do not change overnight."""
    return DAY.strftime(str(form)[:100])


def _small(value: Any, limit: float) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= limit


def _bounded(value: Any) -> Any:
    """A result that could only be a bomb is refused before it grows further."""
    if isinstance(value, (str, list, tuple, dict)) and len(value) > 4 * MAX_NUMBER:
        raise BudgetError("it makes a value too large")
    if isinstance(value, int) and value.bit_length() > 128:
        raise BudgetError("it makes a number too large")
    return value


def _check_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise BudgetError(f"it calls something with a number beyond {MAX_NUMBER}")


def _check_format(text: Any) -> None:
    if re.search(r"\d{4}|\*", str(text)) and re.search(r"[%{]", str(text)):
        raise BudgetError("it formats with a width too large")


def _join(value: Any, d: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = [v.get(attribute, "") if isinstance(v, dict) else "" for v in value]
    parts = [v if isinstance(v, str) else str(_shallow(v)) for v in value]
    if sum(map(len, parts)) + len(d) * len(parts) > 4 * MAX_NUMBER:
        raise BudgetError("it joins too much text")
    return d.join(parts)


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    text, old, new = str(text), str(old), str(new)
    times = text.count(old) if count is None or count < 0 else min(count, text.count(old))
    if times * len(new) + len(text) > 4 * MAX_NUMBER:
        raise BudgetError("it replaces with too much text")
    replaced: str = text.replace(old, new, times)
    return replaced


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As in transformers: letters of any script stay what they are."""
    text: str = json.dumps(
        _shallow(value), ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return text


def _shallow(value: Any) -> Any:
    """Refuse lists of lists of lists: printing or comparing shared ones takes exponential time."""
    todo, seen = [(value, 0)], 0
    while todo:
        item, depth = todo.pop()
        if isinstance(item, (dict, list, tuple)):
            seen += 1
            if depth > MAX_DEPTH or seen > 10_000:
                raise BudgetError("it nests values too deep")
            todo += [(v, depth + 1) for v in (item.values() if isinstance(item, dict) else item)]
    return value


def _size(messages: Any) -> int:
    return sum((len(m.get("content") or "") if len(m) == 2 else len(str(m))) + 100 for m in messages)
