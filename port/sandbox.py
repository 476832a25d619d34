"""A Jinja sandbox for templates that nobody has vetted: nothing of Python is reachable, and work and size are bounded.

Jinja's own sandbox keeps a template from the interpreter, not from running for ever or filling the memory. Here every
turn of a loop, call and filter is a counted step, the clock is looked at on each, and no value may grow larger than a
prompt: sizes are known before a value is made wherever the operation multiplies, and after it otherwise.
"""

from __future__ import annotations

import functools
import json
import re
import string
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

# Far above what a template needs: a conversation of 1,000 turns takes some 10,000 steps and a few milliseconds.
MAX_STEPS = 2_000_000
MAX_SECONDS = 20.0
_MAX_BITS = 4096  # of whole numbers
_MAX_NUMBER = 1_000_000  # as a width, a count or a precision
_MAX_INDENT = 64
_ITEM = 4  # what an item weighs, beside its characters
# Not in a prompt's templates, and costly or at random. ``expandtabs``, ... are methods of strings and numbers.
_NO_FILTERS = ("pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")
_NO_METHODS = frozenset({"expandtabs", "translate", "maketrans", "encode", "format_map", "to_bytes"})
_WIDE = re.compile(r"[0-9]{5}|[*{]")  # a width in a format, or one that is given beside it
_PERCENT_WIDE = re.compile(r"%(?:\([^)]*\))?[#0 +.\d-]*(?:\*|[0-9]{5})")
_COUNTED, _SIZED, _JOINED = " counted", " sized", " joined"  # no template can name a filter with a blank


class TooMuch(Exception):
    """The template asks for more work or memory than a prompt can need."""


@dataclass
class Work:
    """What one rendering may still do: ``size`` bounds each value, in characters and items."""

    size: int
    deadline: float
    steps: int = MAX_STEPS

    @classmethod
    def new(cls, size: int, seconds: float) -> Work:
        return cls(size, time.monotonic() + seconds)

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise TooMuch(f"more than {MAX_STEPS:,} steps")
        if time.monotonic() > self.deadline:
            raise TooMuch("too much time")

    def check(self, size: int) -> None:
        if size > self.size:
            raise TooMuch(f"a value of more than {self.size:,} characters")


WORK: ContextVar[Work] = ContextVar("port_sandbox_work")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that transformers gives to chat templates, with bounds. ``WORK`` must be set where it is used."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.filters["tojson"] = to_json
        kept = {name: call for name, call in self.filters.items() if name not in _NO_FILTERS}
        self.filters = {name: _bounded(name, call) for name, call in kept.items()}
        self.filters |= {_COUNTED: counted, _SIZED: sized, _JOINED: _concatenated}
        del self.globals["lipsum"]
        self.globals |= {
            "raise_exception": _raise,
            "strftime_now": _now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }

    def template(self, text: str) -> jinja2.Template:
        """Compile. Raises jinja2.TemplateError."""
        tree = _Counting().visit(self.parse(text))
        return jinja2.Template.from_code(self, self.compile(tree), self.make_globals(None))

    def concat(self, parts: Iterable[str]) -> str:
        """What macros, ``{% set %}`` blocks and the like have written."""
        return _concatenated(list(parts))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _NO_METHODS and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        WORK.get().step()
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        _check_numbers(args, kwargs)
        if isinstance(owner, str):
            args = _check_text(getattr(__obj, "__name__", ""), owner, args, kwargs)
        return sized(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        work = WORK.get()
        work.step()
        whole = isinstance(left, int) and isinstance(right, int)
        if operator == "**" and whole and left.bit_length() * max(right, 0) > _MAX_BITS:
            raise TooMuch("a number of too many digits")
        if operator == "*" and not whole:
            for value, count in ((left, right), (right, left)):
                if isinstance(count, int):
                    work.check(weight(value) * count)
        if operator == "%" and isinstance(left, str):
            _check_format(left, "%", right)
        return sized(super().call_binop(context, operator, left, right))


def weight(value: Any) -> int:
    """Characters and items of a value and all that is in it, counted as often as it is written out."""
    work = WORK.get()
    total, waiting = 0, [value]
    while waiting:
        value = waiting.pop()
        total += _ITEM
        if isinstance(value, str | bytes):
            total += len(value)
        elif isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise TooMuch("a number of too many digits")
        work.check(total - _ITEM)
    return total


def sized(value: Any) -> Any:
    """The value itself; raises TooMuch where it is too large."""
    weight(value)
    return value


def counted(items: Any) -> Iterator[Any]:
    """The items, each a step."""
    work = WORK.get()
    for item in items:
        work.step()
        yield item


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without the escapes for HTML that Jinja's own filter makes."""
    if isinstance(indent, int) and indent > _MAX_INDENT:
        raise TooMuch(f"an indent of {indent}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Counting(NodeTransformer):
    """Puts counters around loops, and scales under what grows without a call: literals and concatenation."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _COUNTED, node)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _JOINED, node)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _SIZED, node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _SIZED, node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _SIZED, node) if node.ctx == "load" else node


def _filtered(value: nodes.Node, name: str, at: nodes.Node) -> nodes.Filter:
    """``value|name``, made in the place of ``at``."""
    made = nodes.Filter(value, name, [], [], None, None, lineno=at.lineno)
    assert at.environment is not None, "every parsed node has one"
    made.set_environment(at.environment)
    return made


class _Generation(Extension):
    """``{% generation %}`` marks what the assistant said, for training; here it is its contents."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Dict:
    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


class _Namespace(jinja2.utils.Namespace):
    """Refuses names that start with an underscore, and shows no contents: they could nest without end."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}; use a name without the underscore")


def _bounded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is a step, whose value and result have a bounded size."""
    first = 1 if hasattr(call, "jinja_pass_arg") else 0  # context or environment come before the value

    @functools.wraps(call)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        work = WORK.get()
        work.step()
        value, rest = args[first], args[first + 1 :]
        if name not in _ANY_NUMBER:
            _check_numbers(rest, kwargs)
        if isinstance(value, Iterator):
            value = _gathered(value)
        given = dict(zip(_PARAMETERS.get(name, ()), rest, strict=False)) | kwargs
        if name == "replace":
            _check_replace(value, given.get("old", ""), given.get("new", ""))
        elif name == "join":
            value = _joinable(value, given.get("d", ""))
        elif name == "format":
            _check_format(str(sized(value)), "%", [rest, kwargs])
        elif name == "indent":
            width = given.get("width", 4)
            lines = str(sized(value)).count("\n") + 1
            work.check(lines * (len(width) if isinstance(width, str) else int(width)))
        elif name == "sum" and not isinstance(given.get("start", 0), int | float):
            raise TooMuch("a sum of what are no numbers")
        return sized(call(*args[:first], value, *rest, **kwargs))

    return bounded


_ANY_NUMBER = ("d", "default", "float", "int")
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "replace": ("old", "new"),
    "join": ("d", "attribute"),
    "indent": ("width",),
    "sum": ("attribute", "start"),
}


def _gathered(items: Iterator[Any]) -> list[Any]:
    """The items of a lazy filter, as long as they are small together."""
    work = WORK.get()
    gathered, total = [], 0
    for item in counted(items):
        total += weight(item)
        work.check(total)
        gathered.append(item)
    return gathered


def _joinable(items: Any, between: Any) -> list[Any]:
    gathered = _gathered(iter(items))
    WORK.get().check(sum(map(weight, gathered)) + weight(between) * len(gathered))
    return gathered


def _concatenated(parts: Sequence[Any]) -> str:
    WORK.get().check(sum(map(weight, parts)))
    return "".join(map(str, parts))


def _check_numbers(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int) and abs(value) > _MAX_NUMBER:
            raise TooMuch("a number of more than a million as an argument")


def _check_text(name: str, text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Before a method of a string that multiplies is called; its arguments, iterators gathered."""
    if name == "join" and args:
        return (_joinable(args[0], text), *args[1:])
    if name == "replace" and len(args) >= 2:
        _check_replace(text, *args[:2])
    elif name == "format":
        _check_format(text, "{", [args, kwargs])
    return args


def _check_replace(text: Any, old: Any, new: Any) -> None:
    text, old, new = str(sized(text)), str(sized(old)), str(sized(new))
    WORK.get().check(len(text) + text.count(old) * len(new))


def _check_format(text: str, sign: str, values: Any) -> None:
    wide = bool(_PERCENT_WIDE.search(text)) if sign == "%" else any(_WIDE.search(spec) for spec in _specs(text))
    if wide:
        raise TooMuch("a format with a width of five digits or one that varies")
    WORK.get().check(len(text) + text.count(sign) * weight(values))


def _specs(text: str) -> Iterator[str]:
    """What follows the colons of ``str.format``."""
    return (spec for _, _, spec, _ in string.Formatter().parse(text) if spec)


def _raise(message: Any) -> None:
    raise jinja2.TemplateError(str(message)[:1000])


def _now(form: str) -> str:
    WORK.get().check(len(form) * 10_000)
    return datetime.now().strftime(form)
