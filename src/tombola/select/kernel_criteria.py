"""Criteria of the neural tangent kernel: how far a weight carries what moves the network's outputs in training.

Both score an untrained network, at w_i under the mask so far, and ask for no label.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from tombola.errors import TombolaError
from tombola.parameters import parameters_by_name
from tombola.select.context import Context
from tombola.select.gradient_criteria import flow, one_tensor

__all__ = ["ntk_sap", "px"]


def ntk_sap(context: Context, epsilon: float = 0.01) -> dict[str, Tensor]:
    """|m·d/dm Σ‖f(x; m·w) - f(x; m·(w + ε·ξ))‖²| at the mask m: NTK-SAP (Wang et al. 2023).

    By how much the outputs move when all weights move a little at random: an estimate of the kernel's trace. For every
    batch of the training one of as many inputs from N(0, 1), weights drawn anew, and ξ from N(0, 1); batch norms take
    that batch's statistics. ε = 0.01. The paper prunes in 20 steps.
    """
    draws, total = context.draws(), dict[str, Tensor]()
    for x, _ in context.batches():
        inputs = _normal_like(x, draws)
        model = _with_statistics_of(context.redrawn(), inputs)
        moved = copy.deepcopy(model)
        here, there = (_learning(part, context.final) for part in (model, moved))
        with torch.no_grad():
            for name in context.final:
                step = torch.randn(there[name].shape, generator=draws, dtype=x.dtype, device=draws.device)
                there[name].add_(_masked(context, name, step), alpha=epsilon)
        with torch.enable_grad():
            distance = one_tensor(model(inputs), "ntk_sap") - one_tensor(moved(inputs), "ntk_sap")
            distance.square().sum().backward()  # type: ignore[no-untyped-call]
        for name in context.final:  # m·d/dm of the two weights that m stands before
            total[name] = total.get(name, 0) + flow(here[name], name) + flow(there[name], name)
    return {name: _masked(context, name, score.abs()) for name, score in total.items()}


def px(context: Context) -> dict[str, Tensor]:
    """w_i²·dR/d(w_i²), R = Σ J(x²)·K(1) over examples x and outputs: Path eXclusion, PX (Iurada et al. 2024).

    R bounds the kernel's trace, path by path. J is the network of weights 1 and without biases, whose ReLUs are open
    where they are in the network itself at x. K is the network of squared parameters without its ReLUs, for an input of
    ones. Norms in evaluation mode, in float64. As in SynFlow, the scores of every layer add up to R, biases aside. The
    paper prunes in 100 steps. (Its code squares the derivative, by which that no longer holds.)

    Raises:
        TombolaError: the network has other activations than ReLUs, or norms other than batch norms.
    """
    network, paths, arriving = (context.network("initial").eval().double() for _ in range(3))
    batches = [_floats(x).double() for x, _ in context.batches()]
    weights = _learning(paths, context.final)
    with torch.no_grad():
        for value in filter(torch.is_floating_point, [*paths.parameters(), *paths.buffers()]):
            value.square_()
    _set_to_ones(context, arriving)
    with torch.enable_grad(), _ReLUs(lambda z: z):
        sizes = one_tensor(paths(torch.ones_like(batches[0][:1])), "px")[0]
    arrived = torch.zeros_like(sizes, requires_grad=False)
    with torch.no_grad():
        for x in batches:
            gates = list[Tensor]()
            with _ReLUs(_noting(gates)):
                network(x)
            squares = x.square()
            with _ReLUs(_open_as(gates)):
                arrived += arriving(squares).sum(0)
    sizes.backward(arrived)  # type: ignore[no-untyped-call]
    return {name: flow(weights[name], name) for name in context.final}


# ---- networks ----------------------------------------------------------------------------------------------


def _learning(model: nn.Module, names: Collection[str]) -> Mapping[str, nn.Parameter]:
    """The network's parameters, of which those named want gradients."""
    weights = parameters_by_name(model)
    for name, weight in weights.items():
        weight.requires_grad_(name in names)
    return weights


def _masked(context: Context, name: str, values: Tensor) -> Tensor:
    return values if context.mask is None else values * context.mask[name]


def _with_statistics_of(model: nn.Module, inputs: Tensor) -> nn.Module:
    """In evaluation mode, batch norms with the statistics of these inputs."""
    model.eval()
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # of all batches so far, which is one
        norm.train()
    if norms:
        with torch.no_grad():
            model(inputs)
    return model.eval()


@torch.no_grad()
def _set_to_ones(context: Context, model: nn.Module) -> None:
    """Weights 1 where the mask keeps, biases 0, batch norms as they are before any training."""
    for name, parameter in parameters_by_name(model).items():
        parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        if name in context.final:
            parameter.copy_(_masked(context, name, parameter))
    for part in model.modules():
        if isinstance(part, _BatchNorm):
            if part.running_mean is None:
                raise TombolaError("px needs running statistics in batch norms; choose another criterion")
            part.reset_running_stats()


# ---- inputs ------------------------------------------------------------------------------------------------


def _floats(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise TombolaError("ntk_sap and px are for inputs of real numbers, not of tokens; choose another criterion")
    return x


def _normal_like(x: Tensor, draws: Generator) -> Tensor:
    return torch.randn(_floats(x).shape, generator=draws, dtype=x.dtype, device=draws.device)


# ---- activations -------------------------------------------------------------------------------------------

_OTHERS = (
    "celu clamp clamp_min clip cos elu erf exp gelu glu group_norm gru gru_cell gumbel_softmax hardshrink "
    "hardsigmoid hardswish hardtanh instance_norm layer_norm leaky_relu local_response_norm log log_softmax "
    "logsigmoid lstm lstm_cell mish multi_head_attention_forward normalize prelu relu6 rms_norm rnn_relu "
    "rnn_relu_cell rnn_tanh rnn_tanh_cell rrelu rsqrt scaled_dot_product_attention selu sigmoid silu sin softmax "
    "softmin softplus softshrink softsign sqrt tanh tanhshrink threshold"
)


def _noting(gates: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """A ReLU that notes where it is open."""

    def relu(z: Tensor) -> Tensor:
        gates.append((z > 0).to(z))
        return z.relu()

    return relu


def _open_as(gates: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """ReLUs that are open where those before were, one after the other."""
    order = iter(gates)
    return lambda z: z * next(order)


class _ReLUs(TorchFunctionMode):
    """Within it every ReLU, a module's or a function's, is what `instead` makes of its input."""

    def __init__(self, instead: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.instead = instead

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.strip("_")
        if name in _OTHERS.split():
            raise TombolaError(
                f"px is for networks of ReLUs and batch norms, but this one calls {name}; choose another criterion"
            )
        if name != "relu":
            return func(*args, **kwargs)
        z = args[0] if args else kwargs["input"]
        made = self.instead(z)
        in_place = func.__name__.endswith("_") or kwargs.get("inplace", len(args) > 1 and args[1])
        return z.copy_(made) if in_place and made is not z else made
