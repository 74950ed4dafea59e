"""torch.fx's tracing, without its side effects on the process.

`fx.Tracer.trace` replaces `nn.Module.__call__` for everybody while it runs: modules that other threads call then are
taken for parts of the traced one. Here only the traced modules change, by a class of their own for a while.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.fx import _symbolic_trace as symbolic
from torch.fx._lazy_graph_module import _LazyGraphModule

from tombola.machine.locks import Lock

_TRACING = Lock()


class Value(fx.Proxy):
    """A value whose attributes cannot be set: torch.fx would forget that without a word (`x.data = y`)."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):
            raise AttributeError(f"its forward sets the attribute {name!r} of a value")
        super().__setattr__(name, value)


class Tracer(fx.Tracer):
    """Traces modules that no other thread is using.

    Args:
        leaf: which modules are one call in the graph.
    """

    def __init__(self, leaf: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.leaf = leaf

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A value that tells what its forward does with it."""
        return Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module is one call in the graph."""
        return self.leaf(m)

    def create_arg(self, a: Any) -> Any:
        """As torch.fx, which would make plain dicts of other mappings, such as what Hugging Face networks return."""
        if isinstance(a, dict) and dataclasses.is_dataclass(a):
            values = {field.name: self.create_arg(getattr(a, field.name)) for field in dataclasses.fields(a)}
            return self.create_node("call_function", type(a), (), values)
        if type(a) is OrderedDict:
            items = {key: self.create_arg(value) for key, value in a.items()}
            return self.create_node("call_function", OrderedDict, (items,), {})
        return super().create_arg(a)

    def trace(self, root: nn.Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """As torch.fx, for a module."""
        assert isinstance(root, nn.Module)
        _LazyGraphModule.force_recompile(root)  # type: ignore[arg-type]
        self.root = root
        self.root_module_name = type(root).__name__
        self.submodule_paths = {module: name for name, module in root.named_modules()}
        self.graph = fx.Graph(tracer_cls=type(self))
        self.tensor_attrs = dict(_tensors_of(root))
        forward = type(root).forward
        names = forward.__globals__
        function, args = self.create_args_for_root(forward, True, concrete_args)
        with (
            _TRACING.inner,
            symbolic._new_patcher() as patcher,
        ):  # of functions, which do what they did where no proxy comes
            symbolic._patch_wrapped_functions(patcher)
            for known in (names, *(module.__dict__ for module in self._autowrap_search)):
                symbolic._autowrap_check(patcher, known, self._autowrap_function_ids)
            with self._listening(patcher):
                self.create_node("output", "output", (self.create_arg(function(*args)),), {})
        self.submodule_paths = None
        return self.graph

    @contextlib.contextmanager
    def _listening(self, patcher: Any) -> Iterator[None]:
        """Calls of the root's modules, and parameters that they are asked for, come to the tracer."""
        modules = {id(module): module for module in self.root.modules()}
        classes = {key: type(module) for key, module in modules.items()}
        proxies: dict[str, fx.Proxy] = {}
        made = {kind: self._stand_in(kind, patcher, proxies) for kind in set(classes.values())}
        try:
            for key, module in modules.items():
                module.__class__ = made[classes[key]]
            yield
        finally:
            for key, module in modules.items():
                module.__class__ = classes[key]

    def _stand_in(self, kind: type[nn.Module], patcher: Any, proxies: dict[str, fx.Proxy]) -> type[nn.Module]:
        """The class with calls and attributes that go through the tracer."""
        if issubclass(kind, torch.jit.ScriptModule) or kind.__module__.startswith("torch._dynamo"):
            raise RuntimeError(f"a part of it is compiled ({kind.__name__})")

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            names = getattr(module.forward, "__globals__", {})
            symbolic._autowrap_check(patcher, names, self._autowrap_function_ids)
            return self.call_module(module, lambda *a, **k: kind.__call__(module, *a, **k), args, kwargs)

        def get(module: nn.Module, name: str) -> Any:
            return self.getattr(name, kind.__getattr__(module, name), proxies)

        own = {"__call__": call, "__getattr__": get, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
        made: type[nn.Module] = type(kind)(kind.__name__, (_Unannounced, kind), own)  # type: ignore[misc]
        return made


class _Unannounced(nn.Module):
    """Keeps what a user's class does to its subclasses from being done to a stand-in."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        return


def _tensors_of(root: nn.Module) -> Iterator[tuple[Any, str]]:
    """Tensors that are plain attributes, and their names."""
    for path, module in root.named_modules(remove_duplicate=False):
        for name, value in vars(module).items():
            if isinstance(value, symbolic._constant_attribute_types):
                yield value, ".".join(part for part in (path, name) if part)
