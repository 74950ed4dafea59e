"""Functions, methods, classes and modules of Python, and compiled functions."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterable
from importlib.util import resolve_name
from typing import Any

from tombola.fingerprint.objects import NAMESPACES, read_compiled, read_mapping
from tombola.fingerprint.origins import file_digest, package_of
from tombola.fingerprint.source import code_parts, imports, reads
from tombola.fingerprint.walk import Reader, Walk

_NOT_OF_A_CLASS = frozenset(
    {
        *("__module__", "__qualname__", "__dict__", "__weakref__", "__doc__", "__firstlineno__", "__orig_bases__"),
        *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__parameters__"),
        *("__conditional_annotations__", "__static_attributes__", "__abstractmethods__", "_abc_impl"),
        *("__match_args__", "__dataclass_fields__", "__dataclass_params__", "__slotnames__"),
    }
)
"""What a class holds besides what it does; a dataclass's generated methods know its fields."""


def read_function(walk: Walk, value: types.FunctionType, location: str) -> None:
    """A function of an installed package by name, another by source, defaults and all that it reads from outside."""
    location = f"{location}{'.' if location else ''}{value.__name__}"
    module = value.__globals__.get("__name__")
    package = package_of(module)
    if package is not None:
        walk.put("function", package, module, value.__qualname__)
        compiled_from = vars(value).get("_torchdynamo_orig_callable")
        closure = (compiled_from,) if compiled_from is not None else value.__closure__ or ()
        walk.items("closure", closure, location)
        return
    source = walk.sources.of(value.__code__, value.__globals__)
    walk.put("function")
    if source is None and callable(generated := vars(value).get("__wrapped__")):
        walk.value(generated, location)  # a wrapper that was generated for it may name things by their address
        return
    walk.value(value.__code__ if source is None else source, location)
    walk.items("defaults", value.__defaults__ or (), location)
    walk.value(value.__kwdefaults__, location)
    read_mapping(walk, vars(value), location)
    _read_surroundings(walk, value, location)


def _read_surroundings(walk: Walk, value: types.FunctionType, location: str) -> None:
    """The function's closure, the globals that it reads, and the modules that it imports."""
    code = value.__code__
    cells = dict(zip(code.co_freevars, value.__closure__ or (), strict=True))
    for name, chains in sorted(reads(code).items()):
        if name in cells and name != "__class__":  # a method's class is looked at where it is met
            walk.put(name)
            _read_chains(walk, _content(cells[name]), chains, f"{location}: {name}")
        elif name in value.__globals__:
            walk.put(name)
            _read_chains(walk, value.__globals__[name], chains, f"{location}: {name}")
    for name, level in sorted(imports(code)):
        module = _imported(name, level, value.__globals__.get("__package__"))
        walk.put("import", name, level, module is None)
        if module is not None and package_of(module.__name__) is None:
            used = sorted((attribute,) for attribute in set(code.co_names) if hasattr(module, attribute))
            _read_chains(walk, module, used, f"{location}: {name}")


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "an empty cell"


def _imported(name: str, level: int, package: str | None) -> types.ModuleType | None:
    try:
        return importlib.import_module(resolve_name("." * level + name, package or ""))
    except Exception:  # whatever a module does when it is imported: the function would fail too
        return None


def _read_chains(walk: Walk, value: Any, chains: Iterable[tuple[str, ...]], location: str) -> None:
    """What `helpers.loss` or `args.alpha` come to: of a module or a namespace only what is read of it counts."""
    for chain in sorted(chains):
        reached, where = value, location
        for name in chain:
            own = isinstance(reached, types.ModuleType) and package_of(reached.__name__) is None
            if not (own or isinstance(reached, NAMESPACES)) or not hasattr(reached, name):
                break
            walk.put(name)
            reached, where = getattr(reached, name), f"{where}.{name}"
        walk.value(reached, where)


def read_class(walk: Walk, value: type, location: str) -> None:
    """A class with all that it inherits from: those of the user by what they hold, others by name."""
    walk.put("class")
    for base in value.__mro__[:-1]:
        package = package_of(base.__module__)
        # a class made within a function of a package may hold anything
        if package is not None and "<locals>" not in base.__qualname__:
            walk.put(package, base.__module__, base.__qualname__)
            continue
        walk.put("own", base.__name__)
        home = sys.modules.get(base.__module__)
        if home is not None and not str(getattr(home, "__file__", None) or ".py").endswith(".py"):
            walk.put("compiled", file_digest(home))
        for name, item in sorted(_members(base).items()):
            if name not in _NOT_OF_A_CLASS:
                walk.put(name)
                walk.value(item, f"{base.__name__}.{name}")
    if type(value) is not type:
        walk.value(type(value), location)


def _members(value: type) -> dict[str, Any]:
    """What a class defines, as it was before torch wrapped its `step`, as it does for an optimiser's first instance."""
    members = dict(vars(value))
    step: Any = members.get("step")
    if _hooked(step):
        members["step"] = step.__wrapped__
        inherited = next((vars(base)["step"] for base in value.__mro__[1:] if "step" in vars(base)), None)
        if step.__wrapped__ in (inherited, getattr(inherited, "__wrapped__", None)):
            del members["step"]
    return members


def _hooked(step: Any) -> bool:
    return isinstance(step, types.FunctionType) and "hooked" in vars(step) and hasattr(step, "__wrapped__")


def read_method(walk: Walk, value: types.MethodType, location: str) -> None:
    """A bound method: its function and what it is bound to."""
    walk.put("method")
    walk.value(value.__func__, location)
    walk.value(value.__self__, location)


def read_code(walk: Walk, value: types.CodeType, location: str) -> None:
    """A code object, by the version of Python that compiled it."""
    walk.put("code", sys.version_info[:2])
    walk.items("parts", code_parts(value), location)


def read_module(walk: Walk, value: types.ModuleType, location: str) -> None:
    """A module as a whole: of the user's own its file."""
    walk.put("module", package_of(value.__name__) or file_digest(value) or value.__name__)


def read_wrapped(walk: Walk, value: Any, location: str) -> None:
    """A classmethod or staticmethod."""
    walk.put(type(value).__name__)
    walk.value(value.__func__, location)


READERS: tuple[Reader, ...] = (
    (types.FunctionType, read_function),
    (types.MethodType, read_method),
    (type, read_class),
    (types.CodeType, read_code),
    (types.ModuleType, read_module),
    (property, lambda walk, value, location: walk.items("property", (value.fget, value.fset, value.fdel), location)),
    ((staticmethod, classmethod), read_wrapped),
    (types.CellType, lambda walk, value, location: walk.value(_content(value), location)),
    (
        (
            types.BuiltinFunctionType,
            types.MethodDescriptorType,
            types.ClassMethodDescriptorType,
            types.WrapperDescriptorType,
            types.MethodWrapperType,
            types.GetSetDescriptorType,
            types.MemberDescriptorType,
        ),
        read_compiled,
    ),
)
