"""What a deployed network cannot do: be traced, differentiated, cast, moved, trained or saved."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, fx, nn
from torch.autograd import forward_ad

from tombola.deploy.kernels.module import KernelModule
from tombola.errors import TombolaError
from tombola.machine.compiling import compiling

_PLAIN = "`.compacted`, the same network in plain torch,"


class Inference(nn.Module):
    """A module that is called in eval mode and nothing else: what would be silently wrong is an error of one line."""

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: what was folded cannot be trained."""
        return super().train(False)

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises TombolaError: the weights are in the kernels."""
        raise TombolaError(
            "a deployed network has its weights in its kernels and no state_dict; take that of the ticket's or model's "
            f"network, or of {_PLAIN} and keep `.plan`"
        )

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises TombolaError: the weights are in the kernels."""
        raise TombolaError(
            "a deployed network has its weights in its kernels; load the state_dict into the model, and deploy that"
        )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.load_state_dict()  # within a module that holds it

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Casts and moves. Raises TombolaError unless nothing would change."""
        for dtype, device in self._kinds():
            before = torch.empty(0, dtype=dtype, device=device)
            after = fn(before)
            if (after.dtype, after.device) != (dtype, before.device):
                raise TombolaError(
                    f"a deployed network stays {short(dtype)} on {device.type}, and cannot become "
                    f"{short(after.dtype)} on {after.device.type}; cast or move the model, and deploy that"
                )
        return self

    def _kinds(self) -> Iterable[tuple[torch.dtype, torch.device]]:
        """The dtypes and devices of what it computes with."""
        kinds = {(x.dtype, x.device) for x in (*self.parameters(), *self.buffers()) if x.is_floating_point()}
        if not kinds or any(isinstance(module, KernelModule) for module in self.modules()):
            kinds.add((torch.float32, torch.device("cpu")))
        return sorted(kinds, key=str)

    def __prepare_scriptable__(self) -> NoReturn:
        raise TombolaError(f"a deployed network cannot be scripted, only called; script {_PLAIN} instead")

    def __copy__(self) -> Self:
        return copy.deepcopy(self)

    def __reduce__(self) -> NoReturn:
        raise TombolaError("a deployed network cannot be pickled; save its plan and the ticket, and deploy again")


def check_call(inputs: Sequence[Any]) -> None:
    """Check that a call is plain inference.

    Raises:
        TombolaError: it is traced, exported or compiled; transformed by torch.func; under autocast; or an input wants a
            gradient.
    """
    traced = isinstance(inputs, fx.Proxy) or torch._C._get_tracing_state() is not None
    if traced or compiling() or torch._C._get_dispatch_mode(_PROXY) is not None:
        raise TombolaError(f"a deployed network cannot be traced, exported or compiled; give {_PLAIN} instead")
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise TombolaError(
            f"a deployed network cannot be transformed by torch.func (vmap, grad, jvp); transform {_PLAIN} instead, "
            "and call the deployed one on the whole batch"
        )
    if (torch.is_grad_enabled() and any(_asks(x) for x in inputs)) or _is_dual(inputs):
        raise TombolaError(
            "an input requires a gradient, which a deployed network does not give; call it on x.detach() or within "
            f"torch.no_grad(), or differentiate {_PLAIN} instead"
        )
    if torch._C._is_any_autocast_enabled() and any(_is_cast(x) for x in inputs):
        raise TombolaError(
            "autocast is on, and a deployed network computes in the dtypes it was deployed in; call it within "
            "torch.autocast(..., enabled=False)"
        )


_PROXY = torch._C._TorchDispatchModeKey.PROXY


def _asks(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _is_cast(x: Any) -> bool:
    return isinstance(x, Tensor) and torch.is_autocast_enabled(x.device.type)


def _is_dual(inputs: Sequence[Any]) -> bool:
    """Whether forward-mode differentiation runs, on one of them."""
    if forward_ad._current_level < 0:
        return False
    pairs = (forward_ad.unpack_dual(x) for x in inputs if isinstance(x, Tensor))  # type: ignore[no-untyped-call]
    return any(pair.tangent is not None for pair in pairs)


def short(dtype: torch.dtype) -> str:
    """Its name, such as float32."""
    return str(dtype).removeprefix("torch.")
