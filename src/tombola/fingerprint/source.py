"""The source of a Python function without comments and layout, and the names that it reads from outside."""

from __future__ import annotations

import ast
import dis
import linecache
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

_READS = frozenset(
    {
        "LOAD_GLOBAL",
        "LOAD_NAME",
        "LOAD_DEREF",
        "LOAD_CLASSDEREF",
        "LOAD_FROM_DICT_OR_GLOBALS",
        "LOAD_FROM_DICT_OR_DEREF",
    }
)
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class _File:
    """A source file's code, and the position of each function in it."""

    codes: Mapping[tuple[str, int], Sequence[CodeType]]
    functions: Mapping[tuple[str, int], ast.AST]
    lambdas: Mapping[int, Sequence[ast.Lambda]]

    def node(self, code: CodeType) -> ast.AST | None:
        """The function or lambda that this very code was compiled from; None if the file gives other code."""
        if code not in self.codes.get((code.co_name, code.co_firstlineno), ()):
            return None
        if code.co_name != "<lambda>":
            return self.functions.get((code.co_name, code.co_firstlineno))
        # several may be on one line: it is the innermost whose body holds every position that the code came from
        spans = [position for position in code.co_positions() if None not in position and position[2:] != (0, 0)]
        holding = [
            node
            for node in self.lambdas.get(code.co_firstlineno, ())
            if spans and all(_within(span, node.body) for span in spans)
        ]
        return holding[-1] if holding else None  # they are listed from the outermost inwards


@dataclass
class Sources:
    """Reads the source of code objects; each file is parsed once."""

    _files: dict[str, _File | None] = field(default_factory=dict)

    def of(self, code: CodeType, globals_: Mapping[str, Any]) -> str | None:
        """The source of a function, or None where it is not certain to be what runs.

        Comments, layout and docstrings are left out, so that only a change of the code changes the text. The file is
        compiled and must give this very code: it may have been edited since it was imported.
        """
        if code.co_filename not in self._files:
            self._files[code.co_filename] = _read(code.co_filename, globals_)
        file = self._files[code.co_filename]
        node = None if file is None else file.node(code)
        return None if node is None else ast.unparse(node)


def _read(filename: str, globals_: Mapping[str, Any]) -> _File | None:
    linecache.checkcache(filename)
    text = "".join(linecache.getlines(filename, dict(globals_)))
    try:
        whole = compile(text, filename, "exec", dont_inherit=True)
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None
    codes: dict[tuple[str, int], list[CodeType]] = {}
    for code in _nested(whole):
        codes.setdefault((code.co_name, code.co_firstlineno), []).append(code)
    functions: dict[tuple[str, int], ast.AST] = {}
    lambdas: dict[int, list[ast.Lambda]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda):
            lambdas.setdefault(node.lineno, []).append(node)
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, _FUNCTIONS):
            functions[(node.name, min([node.lineno, *(d.lineno for d in node.decorator_list)]))] = node
    return _File(codes, functions, lambdas)


def _nested(code: CodeType) -> Iterator[CodeType]:
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield const
            yield from _nested(const)


def _within(span: tuple[int | None, ...], body: ast.expr) -> bool:
    line, end_line, column, end_column = span
    start, end = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
    return start <= (line, column) and (end_line, end_column) <= end


def reads(code: CodeType) -> dict[str, set[tuple[str, ...]]]:
    """Names that the code, and functions within it, read from outside -> the attributes read of each at once.

    `helpers.loss.of(x)` gives {"helpers": {("loss", "of")}}, a plain `x` gives {"x": {()}}.
    """
    names: dict[str, set[tuple[str, ...]]] = {}
    for part in (code, *_nested(code)):
        name, chain = None, list[str]()
        for step in (*dis.get_instructions(part), None):
            if name is not None and step is not None and step.opname in _ATTRIBUTES:
                chain.append(step.argval)
                continue
            if name is not None:
                names.setdefault(name, set()).add(tuple(chain))
            name = step.argval if step is not None and step.opname in _READS else None
            chain = []
    return names


def imports(code: CodeType) -> list[tuple[str, int]]:
    """Modules that the code, and functions within it, import when they run: (name, level as in relative imports)."""
    modules = dict[tuple[str, int], None]()
    for part in (code, *_nested(code)):
        before: list[Any] = []
        for step in dis.get_instructions(part):
            if step.opname == "IMPORT_NAME":  # ... LOAD_CONST level, LOAD_CONST fromlist, IMPORT_NAME name
                modules[(step.argval, before[-2].argval if len(before) > 1 else 0)] = None
            before.append(step)
    return list(modules)


def code_parts(code: CodeType) -> list[Any]:
    """The content of a code object, without its location; constants come last."""
    return [
        code.co_name,
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
        code.co_code,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_exceptiontable,
        code.co_consts,
    ]
