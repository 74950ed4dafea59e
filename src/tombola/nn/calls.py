"""What a network calls in one pass: functions of torch on values that depend on its inputs, and the role of each."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, MappingProxyType
from typing import Any, Literal

from torch import Tensor, UntypedStorage, nn
from torch.overrides import resolve_name
from torch.utils.weak import WeakTensorKeyDictionary

from tombola.nn.forward import leaves
from tombola.nn.relus import BinaryReLUs, is_own

Role = Literal[
    "given", "activation", "nonlinear", "weight", "norm", "max pool", "average pool", "dropout", "same", "other"
]
"""given: an input; activation: ReLU-like, or binary already; nonlinear: any other; same: rearranges values, or passes
them on."""

# Functions and tensor methods by name, without the underscores of private and in-place ones and the "2d" of pools.
_NAMES: Mapping[Role, str] = MappingProxyType(
    {
        "activation": "relu relu6 hardtanh binary_sign",
        "nonlinear": "sigmoid tanh softmax log_softmax softmin gumbel_softmax gelu silu elu selu celu leaky_relu prelu "
        "rrelu mish hardswish hardsigmoid softplus softsign glu logsigmoid log_sigmoid hardshrink softshrink "
        "tanhshrink threshold clamp clamp_min clamp_max clip expit scaled_dot_product_attention "
        "multi_head_attention_forward native_multi_head_attention transformer_encoder_layer_fwd rnn_relu rnn_tanh lstm "
        "gru rnn_relu_cell rnn_tanh_cell lstm_cell gru_cell",
        "weight": "linear bilinear conv conv_transpose matmul mm bmm addmm baddbmm einsum",
        "norm": "batch_norm instance_norm layer_norm group_norm rms_norm normalize",
        "max pool": "max_pool adaptive_max_pool",
        "average pool": "avg_pool adaptive_avg_pool mean",
        "dropout": "dropout feature_dropout alpha_dropout feature_alpha_dropout",
        "same": "flatten unflatten view reshape permute transpose movedim squeeze unsqueeze contiguous clone getitem "
        "chunk split narrow channel_shuffle pixel_shuffle pixel_unshuffle to float",
    }
)
_ROLE_OF = {name: role for role, names in _NAMES.items() for name in names.split()}


@dataclass(frozen=True, eq=False)
class Call:
    """One call.

    `name`: as one writes it, F.relu, torch.relu, Tensor.relu; `path`: of the innermost module that was called;
    `layer`: the class of that module, None for a user's; `inputs`: what made the values that it was given, constants
    and parameters aside; `in_place`: whether it is a ReLU that would overwrite its input.
    """

    name: str
    role: Role
    path: str = ""
    layer: type[nn.Module] | None = None
    inputs: tuple[Call, ...] = ()
    in_place: bool = False

    @property
    def location(self) -> str:
        """The path of a layer, or a function and the module that calls it."""
        place = repr(self.path) if self.path else "the model's own forward"
        return place if self.layer and self.path else f"{self.name} in {place}"

    @property
    def is_relu(self) -> bool:
        """Whether a ReLU was called as a function."""
        return self.role == "activation" and self.name != "binary_sign"


_GIVEN = Call("", "given")


class Recorder(BinaryReLUs):
    """Notes the calls of one pass, in which ReLUs are binary already.

    Args:
        model: its parameters, buffers and what is made of them alone are constants.

    Attributes:
        calls: in order.
        outputs: what made the tensors of the output.
        stale: ReLUs in place whose input, which they would have overwritten, is used again.
        repeated: ReLUs that activation checkpointing will call again, outside of any module.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.outputs: list[Call] = []
        self.stale: list[Call] = []
        self.repeated: list[Call] = []
        self._modules = {id(module): (path, module) for path, module in model.named_modules()}
        self._makers: Any = WeakTensorKeyDictionary()  # of every tensor; None: of a constant
        self._makers.update(dict.fromkeys([*model.parameters(), *model.buffers()]))
        self._overwritten: dict[UntypedStorage | Tensor, Call] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every function of torch and method of a tensor."""
        result = super().__torch_function__(func, types, args, kwargs)
        name = _written(func)
        made = leaves(result) or (leaves(args[0]) if name.endswith(("__setitem__", "__set__")) else [])
        if made:  # not where a size or the like is asked for
            call = self._call(name, leaves([args, kwargs or {}]), (kwargs or {}).get("inplace") is True)
            self._makers.update(dict.fromkeys(made, call))
        return result

    def finish(self, output: Any) -> None:
        """Take note of the output."""
        self.outputs = [self._makers.get(tensor, _GIVEN) or _GIVEN for tensor in leaves(output)]
        self._find_stale(leaves(output))

    def _call(self, name: str, tensors: Sequence[Tensor], in_place: bool) -> Call | None:
        inputs = tuple(maker for tensor in tensors if (maker := self._makers.get(tensor, _GIVEN)) is not None)
        if not inputs:
            return None
        self._find_stale(tensors)
        path, module, repeated = self._caller()
        role = _ROLE_OF.get(_bare(name), "other")
        in_place = role == "activation" and (
            in_place or name.endswith("_") or getattr(module, "replaced_in_place", False)
        )
        call = Call(name, role, path, None if is_own(module) else type(module), inputs, in_place)
        self.calls.append(call)
        if in_place:
            self._overwritten[_memory(tensors[0])] = call
        if repeated and role == "activation":
            self.repeated.append(call)
        return call

    def _find_stale(self, tensors: Sequence[Tensor]) -> None:
        if self._overwritten:
            self.stale += [call for tensor in tensors if (call := self._overwritten.get(_memory(tensor)))]

    def _caller(self) -> tuple[str, nn.Module, bool]:
        """The innermost module on the stack, its path, and whether its forward is within activation checkpointing."""
        frame: FrameType | None = sys._getframe(3)
        repeated = False
        while frame is not None:
            if found := self._modules.get(id(frame.f_locals.get("self"))):
                return *found, repeated
            repeated |= frame.f_globals.get("__name__") == "torch.utils.checkpoint"
            frame = frame.f_back
        return *next(iter(self._modules.values())), repeated


def reaching(ends: Sequence[Call], *through: Role) -> set[Call]:
    """The calls that made the values at the ends, or values that reach them through calls of these roles alone."""
    reached: set[Call] = set()
    left = list(ends)
    while left:
        call = left.pop()
        if call not in reached:
            reached.add(call)
            left += call.inputs if call.role in through else ()
    return reached


def _memory(tensor: Tensor) -> UntypedStorage | Tensor:
    """What views of a tensor share; of a tensor that torch.func transforms, itself."""
    try:
        return tensor.untyped_storage()
    except NotImplementedError:
        return tensor


def _written(func: Any) -> str:
    """A function as one writes it."""
    name = str(resolve_name(func) or func.__name__).removesuffix(".default").removesuffix(".__get__")
    return name.replace("torch.nn.functional.", "F.").replace("torch.Tensor.", "Tensor.")


def _bare(name: str) -> str:
    stem = name.rpartition(".")[2].strip("_").removesuffix("_with_indices")
    return stem[:-2] if stem[-2:] in ("1d", "2d", "3d") else stem
