"""Changes of a network that a ticket can record: binary activations for ReLUs, binary layers for plain ones."""

from __future__ import annotations

import copy
import copyreg
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce, update_wrapper, wraps
from operator import or_
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import fx, nn

from tombola.errors import TombolaError, in_short
from tombola.formats import aligned
from tombola.nn.binary import BinaryActivation, use_binary_layers_
from tombola.nn.calls import Recorder, reaching
from tombola.nn.init import NORMS
from tombola.nn.relus import RELU_LIKE, is_own, with_binary_relus
from tombola.nn.remarks import remarks
from tombola.parameters import unwrap


@dataclass(frozen=True)
class Replaced:
    """Activations of one kind at one location.

    `kind`: "nn.ReLU", "F.relu", "Tensor.relu_" ...; `where`: path of the module, or of the one that calls the
    function ("" for the model itself); `times`: calls in one pass of the model; None where there was no example.
    """

    kind: str
    where: str
    times: int | None


@dataclass(frozen=True)
class RewriteReport:
    """What `binary_activations` replaced, and remarks about the resulting network."""

    replaced: tuple[Replaced, ...]
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [("replaced", "in", "times")]
        rows += [(r.kind, r.where or "(the model)", "?" if r.times is None else str(r.times)) for r in self.replaced]
        return "\n".join([*aligned(rows, left=(0, 1)), *(f"note: {remark}" for remark in self.remarks)])


# ---- binary activations ------------------------------------------------------------------------------------


def binary_activations(model: nn.Module, *example: Any) -> tuple[nn.Module, RewriteReport]:
    """Replace every ReLU, ReLU6 and Hardtanh of `model`, module or function, by BinaryActivation; in place.

    Modules are swapped. Every module whose forward is a user's gets a subclass of its class, `Binary...`, in whose
    forward the functions are binary as they are called, whatever path the forward takes. It can be copied, pickled,
    compiled and exported. No state_dict name changes, and nothing else is touched.

    Args:
        example: inputs of the model, on which a copy is tried in train and in eval mode, with norms in eval mode.
            Without them the report knows of modules alone, and the model itself is tried, and may be refused, in its
            first call in each mode; before torch.compile(fullgraph=True) it must have been called.

    Returns:
        the model itself, and what was replaced.

    Raises:
        TombolaError: other nonlinear activations would stay; the output would be binary; an in-place activation whose
            input is used again; a function called within torch.utils.checkpoint; code that Python does not run
            (torch.jit, torch.fx); there is nothing to replace. The model is as it was then.
    """
    bare = unwrap(model)
    for path, module in bare.named_modules():
        if isinstance(module, (torch.jit.ScriptModule, fx.GraphModule)):
            kind = "scripted (torch.jit)" if isinstance(module, torch.jit.ScriptModule) else "a graph of torch.fx"
            raise TombolaError(f"{repr(path) if path else 'the model'} is {kind}; rewrite what it was made from")
    swaps, may_call = _swaps(bare), any(map(_may_call, bare.modules()))
    passes = _tried(bare, example) if example else []
    replaced = (*_module_rows(swaps, passes), *_function_rows(passes))
    if not replaced and (passes or not may_call):
        raise TombolaError("the model has no ReLU, ReLU6 or Hardtanh to replace; build it with one of them")
    _rewrite(bare)
    if not passes:
        _give_subclass(bare)
        bare._untried = frozenset((True, False))  # type: ignore[assignment]
        return model, RewriteReport(replaced, (_UNTRIED,))
    return model, RewriteReport(replaced, tuple(dict.fromkeys(line for one in passes for line in remarks(one.calls))))


_UNTRIED = "without an example, functions are first seen, and the network is checked, when it is called"


def has_binary_activations(model: nn.Module) -> bool:
    """Whether a network has binary activations, built in or by `binary_activations`."""
    return any(isinstance(module, (BinaryActivation, _Binary)) for module in model.modules())


def _swaps(model: nn.Module) -> dict[nn.Module, str]:
    """The ReLU-like submodules, and the first path of each."""
    return {module: path for path, module in model.named_modules() if path and isinstance(module, RELU_LIKE)}


def _may_call(module: nn.Module) -> bool:
    """Whether a module may call ReLUs as functions, and has no subclass for that yet."""
    return not isinstance(module, _Binary) and (is_own(module) or isinstance(module, RELU_LIKE))


def _rewrite(model: nn.Module) -> None:
    """Swap modules, and give subclasses."""
    made = {module: BinaryActivation().train(module.training) for module in _swaps(model)}
    for module, new in made.items():
        new.replaced_in_place = bool(module.inplace)
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child in made:
                module._modules[name] = made[child]
        if module not in made and _may_call(module):
            _give_subclass(module)


# ---- the subclass ------------------------------------------------------------------------------------------


class _Binary(nn.Module):
    """What the subclasses have in common."""

    _plain: ClassVar[Any]
    _untried: frozenset[bool] = frozenset()
    """Modes (train, eval) in which the first call is still to be checked."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """What a user's class does to its subclasses is not done to these."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A pickle names the user's class, which can be imported."""
        reduced: Any = super().__reduce_ex__(protocol)
        by_class = (copyreg.__newobj__, (type(self),))  # type: ignore[attr-defined]
        return (_new, (self._plain,), *reduced[2:]) if reduced[:2] == by_class else reduced


def _new(plain: Any) -> Any:
    return object.__new__(_subclass(plain))


@cache
def _subclass(plain: Any) -> Any:
    """The class with a forward in which ReLUs that are called as functions are binary."""

    def forward(self: _Binary, *args: Any, **kwargs: Any) -> Any:
        return _called(self, partial(plain.forward, self), *args, **kwargs)

    own = {"forward": wraps(plain.forward)(forward), "__module__": plain.__module__, "__doc__": plain.__doc__}
    return type(plain)(f"Binary{plain.__name__}", (_Binary, plain), {**own, "_plain": plain})


def _give_subclass(module: nn.Module) -> None:
    if isinstance(module, _Binary):
        return
    if own := vars(module).get("forward"):
        module.forward = update_wrapper(partial(_called, module, own), own)
    kind: Any = type(module)
    module.__class__ = _subclass(kind)


def _called(module: Any, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The module's forward; checked in the first call of a model that was rewritten without an example."""
    if any(isinstance(value, fx.Proxy) for value in args):  # whose methods no mode sees
        raise TombolaError("torch.fx cannot trace a network whose ReLUs are replaced as they are called; export it")
    if module.training not in module._untried:
        return with_binary_relus(forward, args, kwargs)
    if torch.compiler.is_dynamo_compiling():  # compiled from the second call on
        return torch.compiler.disable(_first_call)(module, forward, args, kwargs)  # type: ignore[no-untyped-call]
    return _first_call(module, forward, args, kwargs)


def _first_call(module: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    output, _ = _checked(module, forward, args, kwargs)
    module._untried -= {module.training}
    return output


# ---- what a pass shows ---------------------------------------------------------------------------------------


def _tried(model: nn.Module, example: Sequence[Any]) -> list[Recorder]:
    """The passes of a rewritten copy in train and in eval mode."""
    passes = []
    try:
        trial = copy.deepcopy(model)
        _rewrite(trial)
        with torch.random.fork_rng({parameter.device for parameter in model.parameters() if parameter.is_cuda}):
            for training in (True, False):
                for module in trial.train(training).modules():
                    module.training &= not isinstance(module, NORMS)  # for which one example could be too few
                passes.append(_checked(trial, trial, example, {})[1])
    except TombolaError:
        raise
    except Exception as error:  # a user's forward may raise anything
        raise TombolaError(f"a copy of the model cannot be called on the example: {in_short(error)}") from error
    return passes


_REASONS = (
    "has no binary form and would stay; use ReLU there (only the network's output may pass another nonlinear function)",
    "is called within torch.utils.checkpoint, which calls it again on its own; give checkpoint a module that calls it",
    "works in place and its input is used again afterwards; use the activation's result there instead",
    "is the network's output, which would be -1 and +1 only; put a layer after it, or take it off",
)


def _checked(model: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Recorder]:
    """The output of a rewritten model's forward, and what it called; TombolaError if it is not as it should be."""
    recorder = Recorder(model)
    output = with_binary_relus(forward, args, kwargs, recorder)
    recorder.finish(output)
    final = reaching(recorder.outputs, "same")
    ends = reaching(recorder.outputs, "same", "max pool", "average pool", "dropout")
    others = [call for call in recorder.calls if call.role == "nonlinear" and call not in final]
    activations = [call for call in recorder.calls if call.role == "activation" and call in ends]
    for calls, reason in zip((others, recorder.repeated, recorder.stale, activations), _REASONS, strict=True):
        for call in calls:
            kind = f" (nn.{call.layer.__name__})" if call.layer and calls is others else ""
            raise TombolaError(f"{call.location}{kind} {reason}")
    return output, recorder


def _module_rows(swaps: Mapping[nn.Module, str], passes: Sequence[Recorder]) -> Iterator[Replaced]:
    times = _most([call.path for call in one.calls if call.layer is BinaryActivation] for one in passes)
    for module, path in swaps.items():
        yield Replaced(f"nn.{type(module).__name__}", path, times[path] if passes else None)


def _function_rows(passes: Sequence[Recorder]) -> Iterator[Replaced]:
    times = _most([(call.name, call.path) for call in one.calls if call.is_relu] for one in passes)
    for (name, path), count in times.items():
        yield Replaced(name, path, count)


def _most(passes: Iterable[Iterable[Any]]) -> Counter[Any]:
    """How often each comes in the pass where it comes most often."""
    return reduce(or_, map(Counter, passes), Counter())


# ---- rewrites as tickets hold them -------------------------------------------------------------------------


def _apply_activations(module: nn.Module, rewrite: Mapping[str, Any], *example: Any) -> nn.Module:
    _check_keys(rewrite, {"kind"})
    return binary_activations(module, *example)[0]


def _apply_layers(module: nn.Module, rewrite: Mapping[str, Any], *example: Any) -> nn.Module:
    _check_keys(rewrite, {"kind", "names"})
    names = rewrite["names"]
    if (
        not isinstance(names, (list, tuple))
        or not names
        or not all(isinstance(n, str) and len(n) <= 1000 for n in names)
    ):
        raise TombolaError("rewrite 'binary-layers': names must be a list of one or more names of weights")
    use_binary_layers_(module, names)
    return module


def _check_keys(rewrite: Mapping[str, Any], allowed: set[str]) -> None:
    if rewrite.keys() != allowed:
        odd = sorted(map(str, rewrite.keys() ^ allowed))[0]
        raise TombolaError(
            f"rewrite {rewrite['kind']!r}: {odd[:80]!r} is {'missing' if odd in allowed else 'unknown'}; "
            f"its keys are {', '.join(sorted(allowed))}"
        )


REWRITES: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {"binary-activations": _apply_activations, "binary-layers": _apply_layers}
)
"""kind -> function of (module, rewrite, *example) that returns the rewritten module; it may change the one given."""


def apply_rewrites(module: nn.Module, rewrites: Sequence[Mapping[str, Any]], *example: Any) -> nn.Module:
    """The module after all rewrites in order, e.g. ({"kind": "binary-layers", "names": ["fc.weight"]},).

    The module given may be changed. `example`: its inputs, as for `binary_activations`. Raises TombolaError: an unknown
    kind or key, or a rewrite that does not fit; all kinds are checked before anything is changed.
    """
    unknown = [repr(str(r.get("kind")))[:80] for r in rewrites if r.get("kind") not in REWRITES]
    if unknown:
        raise TombolaError(
            f"this Tombola does not know the rewrite {', '.join(unknown[:3])}; "
            f"it knows {', '.join(REWRITES)}: correct the kind, or update Tombola"
        )
    for rewrite in rewrites:
        module = REWRITES[rewrite["kind"]](module, rewrite, *example)
    return module
