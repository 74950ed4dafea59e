"""What training batches say of a network as it stands: loss, gradient, Hessian product, norms of its layers' inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.data.splits import Split, Splits, make_splits
from tombola.data.task import Loss
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.hold import release
from tombola.names import check_known
from tombola.nn.forward import Batch, input_dtype, mapped, typed, widened
from tombola.parameters import holders, parameters_by_name, resolve, transposed, unwrap
from tombola.rng.seeds import derive
from tombola.select.context import At
from tombola.train.evaluate import loss_value
from tombola.train.feeds import evaluation_feed

Data: TypeAlias = Splits | DataSpec | str | tuple[Any, ...] | list[Any]


@checked
def gradient(
    model: nn.Module,
    data: Data,
    loss: Loss | None = None,
    *,
    split: str = "train",
    batches: int | None = None,
) -> dict[str, Tensor]:
    """The gradient of the mean loss over a split by every parameter that it reaches, frozen ones too.

    Args:
        model: taken as it stands, training mode or not; it is copied, and stays untouched.
        data: Splits, (train, val, test) with a pair (x, y) for each part, or a data set's name.
        loss: of (output, target), the mean over a batch; None is the task's.
        split: train (unaugmented), val or test, in its order.
        batches: how many batches of 500 examples; None is the whole split.

    Returns:
        Parameter name -> gradient in the parameter's shape and dtype, on its device.

    Example:
        >>> import torch, tombola as tb
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> tb.gradient(model, ((x, y), (x, y)))["weight"]  # the mean of (softmax - one-hot) x
        tensor([[-0.2500,  0.2500],
                [ 0.2500, -0.2500]])
    """
    if batches is not None and batches < 1:
        raise TombolaError(f"batches is {batches}; ask for at least 1")
    with torch.inference_mode(False):  # of tensors made within that mode there are no gradients
        return _gradient(model, data, loss, split, batches)


def _gradient(model: nn.Module, data: Data, loss: Loss | None, split: str, batches: int | None) -> dict[str, Tensor]:
    splits = _splits(data, torch.float64 if input_dtype(unwrap(model)) == torch.float64 else torch.float32)
    model = copy.deepcopy(unwrap(model))
    release(model)
    weights = parameters_by_name(model)
    device = next((weight.device for weight in weights.values()), torch.device("cpu"))
    feed = evaluation_feed(splits, _part(splits, split), device, False)
    some = islice(typed(feed.sweep(), model), batches)
    return dict(mean_gradient(model, some, loss or splits.task.loss, weights))


def _splits(data: Data, floats: torch.dtype) -> Splits:
    if isinstance(data, tuple | list):
        return make_splits(*data, floats=floats)
    return data if isinstance(data, Splits) else load_data(DataSpec(data) if isinstance(data, str) else data)


def _part(splits: Splits, name: str) -> Split:
    check_known("split", name, ("train", "val", "test"))
    part = {"train": splits.train, "val": splits.val, "test": splits.test}[name]
    if part is None:
        raise TombolaError(f"the data has no {name} split; choose another, or give data with one")
    return part


@dataclass(frozen=True)
class Probe:
    """What a criterion may ask of a search: see `tombola.select.context.Probe`.

    Args:
        fresh: makes a network anew, at the start, as it is now or at given weights, under the mask so far
        redraw: makes one at other initial weights, by a seed, under the mask so far
        names: the weights that scores are for
        feed: the training batches in the order of the run, for a network
        loss: the training loss
        seed: dropout draws derive from it
        like: a network of the same dtypes, to read the batches for; None: one is made
    """

    fresh: Callable[[At], nn.Module]
    redraw: Callable[[int], nn.Module]
    names: tuple[str, ...]
    feed: Callable[[nn.Module], Iterator[Batch]]
    loss_function: Loss
    seed: int
    like: nn.Module | None = None

    def network(self, at: At) -> nn.Module:
        """A network of the caller's own, in training mode."""
        if not isinstance(at, Mapping):
            check_known("at", at, ("initial", "final"))
        return self.fresh(at)

    def redrawn(self, seed: int) -> nn.Module:
        """A network of the caller's own at other initial weights, in training mode."""
        return self.redraw(seed)

    def batches(self, count: int) -> list[Batch]:
        """The first batches (x, y) of the training."""
        return list(self._batches(self.like or self.network("initial"), count))

    def loss(self, at: At, batches: int) -> float:
        """Mean over the first batches, in training mode."""
        model = self.network(at)
        with torch.no_grad(), self._drawn():
            return mean_loss(model, self._batches(model, batches), self.loss_function)

    def gradient(self, at: At, batches: int) -> Mapping[str, Tensor]:
        """Of that loss, by the weights."""
        model = self.network(at)
        with self._drawn():
            return mean_gradient(model, self._batches(model, batches), self.loss_function, self._weights(model))

    def hessian_gradient(self, at: At, batches: int, temperature: float = 1.0) -> Mapping[str, Tensor]:
        """The Hessian times the gradient, of the loss of outputs divided by `temperature`."""
        model = self.network(at)
        found, weights = list(self._batches(model, batches)), self._weights(model)
        loss = self.loss_function if temperature == 1 else cooled(self.loss_function, temperature)
        with self._drawn():
            vector = mean_gradient(model, found, loss, weights)
        with self._drawn():
            return hessian_product(model, found, loss, weights, vector)

    def input_norms(self, at: At, batches: int) -> Mapping[str, Tensor]:
        """Of every weight's inputs, in evaluation mode; shapes broadcast to the weights'."""
        model = self.network(at).eval()
        return input_norms(model, self._batches(model, batches), self.names)

    def _weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in parameters_by_name(model).items() if name in self.names}

    def _batches(self, model: nn.Module, count: int) -> Iterator[Batch]:
        if count < 1:
            raise TombolaError(f"batches is {count}; ask for at least 1")
        return islice(self.feed(model), count)

    def _drawn(self) -> _Drawn:
        return _Drawn(derive(self.seed, "gradient"))


class _Drawn:
    """Within it dropout draws from a seed; the global generator is left as it was."""

    def __init__(self, seed: int) -> None:
        self._seed, self._fork = seed, torch.random.fork_rng(devices=[])

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: object) -> None:
        self._fork.__exit__(None, None, None)


def cooled(loss: Loss, temperature: float) -> Loss:
    """The loss of outputs that are divided by `temperature`."""
    return lambda output, y: loss(mapped(lambda part: part / temperature, output), y)


def write_weights(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy tensors into the parameters and buffers that have their names in the state_dict.

    Raises:
        TombolaError: no such name, or another shape.
    """
    state = model.state_dict()
    for name, value in values.items():
        there = resolve(state, name, "parameter or buffer")
        if value.shape != there.shape:
            raise TombolaError(f"{name!r} has shape {tuple(there.shape)}, but is given as {tuple(value.shape)}")
        there.copy_(value.detach())


def mean_loss(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> float:
    """Mean over all examples."""
    parts = [(float(loss(widened(model(x)), y)), len(x)) for x, y in batches]
    return sum(value * count for value, count in parts) / sum(count for _, count in parts)


@torch.enable_grad()
def mean_gradient(
    model: nn.Module, batches: Iterable[Batch], loss: Loss, weights: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Of the mean loss over all examples, by the weights, which are made to want gradients.

    A weight that no gradient reaches (it has no part in the forward pass) is an error when it is asked for.
    """

    def of_batch(x: Tensor, y: Tensor) -> Mapping[str, Tensor | None]:
        for weight in weights.values():
            weight.grad = None
        _differentiable(loss(widened(model(x)), y)).backward()  # type: ignore[no-untyped-call]
        return {name: weight.grad for name, weight in weights.items()}

    for weight in weights.values():
        weight.requires_grad_(True)
    return _mean(batches, of_batch)


@torch.enable_grad()
def hessian_product(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    weights: Mapping[str, nn.Parameter],
    vector: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """H·vector, H the Hessian of the mean loss over all examples by the weights; where it is 0, as gradients are.

    Of all weights together, those of other layers too. A TombolaError where an operation has no second derivative.
    """
    known = {name: weight for name, weight in weights.items() if name in vector}

    def of_batch(x: Tensor, y: Tensor) -> Mapping[str, Tensor | None]:
        inputs = list(known.values())
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            value = _differentiable(loss(widened(model(x)), y))
        first = torch.autograd.grad(value, inputs, create_graph=True, materialize_grads=True)
        along = sum((g * vector[name]).sum() for name, g in zip(known, first, strict=True))
        assert isinstance(along, Tensor)
        for weight in inputs:
            weight.grad = None
        if along.requires_grad:  # otherwise linear in all weights
            # To all leaves: towards given inputs alone, what has no second derivative would be passed over as 0.
            along.backward()  # type: ignore[no-untyped-call]
        return {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad for name, weight in known.items()
        }

    for weight in known.values():
        weight.requires_grad_(True)
    try:
        return _mean(batches, of_batch)
    except RuntimeError as error:
        if "derivative" not in str(error) and "differentiate" not in str(error):
            raise
        raise TombolaError(f"the loss has no second derivative by the weights: {error}") from error


def _differentiable(loss: Tensor) -> Tensor:
    if not loss_value(loss).requires_grad:
        raise TombolaError("the loss depends on no weight; give one of the output that gradients can pass")
    return loss


def input_norms(model: nn.Module, batches: Iterable[Batch], names: Iterable[str]) -> dict[str, Tensor]:
    """The Euclidean norm of every input feature over all examples and positions (Wanda, Sun et al. 2024).

    Shapes broadcast to the weight's: (1, in) of a Linear, (in, 1) of one that is stored transposed, (1, in / groups,
    1, ...) of a convolution, with `out` in the place of 1 where it has several groups. Sums are float64.
    """
    owners, turned = holders(model), transposed(model)
    layers = {name: owners[name][0][0] for name in names}
    sums: dict[str, Tensor] = {}

    def note(name: str, x: Tensor) -> None:
        channels = x.movedim(1, -1) if isinstance(layers[name], _CONVOLUTIONS) else x
        squares = channels.detach().double().square().flatten(0, -2).sum(0)
        sums[name] = sums[name] + squares if name in sums else squares

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            for x, _ in batches:
                model(x)
    finally:
        for hook in hooks:
            hook.remove()
    norms = {name: _as_weight(total.sqrt().float(), layers[name], name in turned) for name, total in sums.items()}
    return _Reached(norms, "input")


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _as_weight(norms: Tensor, layer: nn.Module, turned: bool) -> Tensor:
    if not isinstance(layer, _CONVOLUTIONS):
        return norms.view(-1, 1) if turned else norms.view(1, -1)
    ones = [1] * len(layer.kernel_size)
    if layer.transposed:  # the weight is (in, out / groups, ...)
        return norms.view(-1, 1, *ones)
    rows = norms.view(layer.groups, -1)  # of one group, the same for all its outputs
    if layer.groups > 1:
        rows = rows.repeat_interleave(layer.out_channels // layer.groups, 0)
    return rows.view(*rows.shape, *ones)


def _mean(
    batches: Iterable[Batch], of_batch: Callable[[Tensor, Tensor], Mapping[str, Tensor | None]]
) -> dict[str, Tensor]:
    """The mean over all examples of what each batch gives by name; of one batch, that very thing."""
    parts = [(of_batch(x, y), len(x)) for x, y in batches]
    total, sums = sum(count for _, count in parts), dict[str, Tensor]()
    for part, count in parts:
        for name, value in part.items():
            if value is not None:
                share = value if count == total else value * (count / total)
                sums[name] = sums[name] + share if name in sums else share
    return _Reached(sums, "gradient of the loss")


class _Reached(dict[str, Tensor]):
    """What reaches each weight; of one that nothing does, an error when it is asked for."""

    def __init__(self, values: Mapping[str, Tensor], what: str) -> None:
        super().__init__(values)
        self._what = what

    def __missing__(self, name: str) -> Tensor:
        raise TombolaError(
            f"no {self._what} reaches {name!r}, which the criterion needs; leave it out with exclude, or "
            "choose another criterion"
        )
