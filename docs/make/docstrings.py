"""Public names without a docstring: of modules, classes, functions and methods that begin with no underscore."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from pages import ROOT, Fault

SOURCE = ROOT / "src" / "tombola"


def faults(source: Path = SOURCE) -> Iterator[Fault]:
    """Every public name below `source` that says nothing of itself."""
    modules = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(source.rglob("*.py"))}
    classes = {
        node.name: node for module in modules.values() for node in ast.walk(module) if isinstance(node, ast.ClassDef)
    }
    for path, module in modules.items():
        names = path.relative_to(source).with_suffix("").parts
        if all(is_public(name) or name in ("__init__", "__main__") for name in names):
            for name in undocumented(module, classes):
                yield Fault(str(path.relative_to(source.parents[1])), f"{name} has no docstring")


def undocumented(
    node: ast.Module | ast.ClassDef, classes: Mapping[str, ast.ClassDef], within: str = ""
) -> Iterator[str]:
    if isinstance(node, ast.Module) and ast.get_docstring(node) is None:
        yield "the module"
    said = promised(node, classes) if isinstance(node, ast.ClassDef) else set()
    for item in node.body:
        if isinstance(item, ast.FunctionDef | ast.ClassDef) and is_public(item.name):
            name = f"{within}{item.name}"
            if has_docstring(item):
                said.add(item.name)  # of a property its setter need not say it again
            elif item.name not in said:
                yield f"{name} (line {item.lineno})"
            if isinstance(item, ast.ClassDef):
                yield from undocumented(item, classes, f"{name}.")


def promised(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> set[str]:
    """Methods that a base class or one of the package's protocols documents."""
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    above = [classes[name] for name in bases if name in classes]
    protocols = [kind for kind in classes.values() if any(getattr(b, "id", "") == "Protocol" for b in kind.bases)]
    methods = [m for kind in (*above, *protocols) for m in kind.body if isinstance(m, ast.FunctionDef)]
    own = {method.name for method in methods if has_docstring(method)}
    return own.union(*(promised(kind, classes) for kind in above))


def has_docstring(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Written below its name, or assigned to `__doc__`."""
    assigned = [target for item in node.body if isinstance(item, ast.Assign) for target in item.targets]
    return ast.get_docstring(node) is not None or any(getattr(target, "id", "") == "__doc__" for target in assigned)


def is_public(name: str) -> bool:
    return not name.startswith("_")
