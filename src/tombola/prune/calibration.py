"""Calibration data: batches as a user has them, as calls of a network."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tombola.data.config import DataSpec
from tombola.data.feed import feed
from tombola.data.registry import load_data
from tombola.data.splits import Splits, holdout, subset
from tombola.data.task import Loss
from tombola.errors import TombolaError, in_short
from tombola.fields import described
from tombola.nn.forward import input_dtype, leaves, mapped
from tombola.nn.modes import in_mode
from tombola.rng.guard import kept, seeded

Data: TypeAlias = Tensor | Mapping[str, Any] | Iterable[Any] | Splits | DataSpec | str
"""What may be given: one batch, batches, or a data set."""
SAMPLES = 512
"""Training examples of a data set, where nothing is asked for."""
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Inputs:
    """One batch: how the network is called, and the labels where there are any.

    `place`: the seed of what the network draws when it is called, so that each call of it gives the same.
    """

    args: tuple[Any, ...]
    named: Mapping[str, Any]
    target: Tensor | None
    place: int = 0

    @property
    def size(self) -> int:
        """Examples: the length of the first tensor."""
        first = next(iter(leaves([self.args, dict(self.named)])))
        return len(first) if first.dim() else 1

    def call(self, model: nn.Module) -> Any:
        """What the network gives; a TombolaError of one line if it refuses."""
        try:
            with seeded(self.place, cuda=True):
                return model(*self.args, **self.named)
        except TombolaError:
            raise
        except Exception as error:  # a user's network may raise anything
            shapes = ", ".join(str(tuple(x.shape)) for x in leaves([self.args, dict(self.named)]))
            raise TombolaError(
                f"the network refuses a calibration batch of shape {shapes} ({in_short(error)}); give batches as its "
                "forward takes them"
            ) from error


@dataclass(frozen=True, eq=False)
class Calibration:
    """Batches on the network's device, gone through as often as it takes, and the loss of their labels."""

    batches: tuple[Inputs, ...]
    loss: Loss

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of one input without the batch; None where the network is not called with one tensor of floats."""
        first = self.batches[0]
        if first.named or len(first.args) != 1 or not isinstance(x := first.args[0], Tensor):
            return None
        return tuple(x.shape[1:]) if x.is_floating_point() and x.dim() > 1 else None

    def lost(self, output: Any, target: Tensor) -> Tensor:
        """The loss of a batch's output; a TombolaError of one line if it refuses."""
        try:
            return self.loss(output, target)
        except TombolaError:
            raise
        except Exception as error:  # a user's loss may raise anything
            shapes = ", ".join(str(tuple(x.shape)) for x in leaves(output))
            raise TombolaError(
                f"the loss refuses an output of shape {shapes} with labels of shape {tuple(target.shape)} "
                f"({in_short(error)}); give labels that go with the output, or the loss that takes them"
            ) from error

    def labelled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (x, y).

        Raises:
            TombolaError: they have no labels, or the network takes something else than one tensor.
        """
        for batch in self.batches:
            if batch.target is None:
                raise TombolaError(
                    "the criterion needs labels, and the calibration data have none; give batches (x, y), or choose "
                    "magnitude, wanda or sparse_gpt"
                )
            yield batch_of_one(batch), batch.target


def batch_of_one(batch: Inputs) -> Tensor:
    """The one tensor that the network is called with; TombolaError for any other call."""
    if batch.named or len(batch.args) != 1 or not isinstance(batch.args[0], Tensor):
        raise TombolaError(
            "the criterion calls the network with one tensor, and the calibration batches are of another form; give "
            "(x, y), or choose magnitude, wanda or sparse_gpt"
        )
    return batch.args[0]


def opened(given: Data) -> Data:
    """A data set that is named, read; other data as they are."""
    if isinstance(given, str | DataSpec):
        return load_data(DataSpec(given) if isinstance(given, str) else given)
    return given


def read(given: Data, model: nn.Module, samples: int | None, loss: Loss | None, seed: int) -> Calibration:
    """The batches of calibration data, as `model` takes them.

    Args:
        given: a tensor, a tuple of tensors or a mapping is one batch; a data set's name, DataSpec or Splits gives
            training examples without augmentation; anything else is gone through for batches, once. Batches without
            examples are left out.
        model: floating-point inputs get its dtype, all go to its device.
        samples: at most so many examples, by whole batches; None: 512 of a data set, else all.
        loss: None is the data set's own, else cross-entropy.
        seed: draws the examples of a data set.

    Raises:
        TombolaError: no batch, or one that is neither a tensor, a tuple nor a mapping.
    """
    given = opened(given)
    if isinstance(given, Splits):
        loss = loss or given.task.loss
        given = _examples(given, SAMPLES if samples is None else samples, seed)
    elif _is_batch(given):
        given = [given]
    elif not isinstance(given, Iterable):
        raise TombolaError(f"calibration is {described(given)}; give batches, one batch, or a data set")
    taken: list[Inputs] = []
    seen = 0
    with kept(cuda=True):  # loaders that shuffle draw
        for batch in given:
            if samples is not None and seen >= samples:
                break
            inputs = _inputs(batch, model, len(taken))
            if inputs.size:
                taken.append(inputs)
                seen += inputs.size
    if seen == 0:
        raise TombolaError("calibration has no example; give at least one batch")
    return Calibration(tuple(taken), loss or nn.functional.cross_entropy)


def listed(given: Data, samples: int | None) -> Data:
    """Data that can be gone through more than once: of a loader, the batches that `read` takes."""
    if isinstance(given, Splits | str | DataSpec) or _is_batch(given) or not isinstance(given, Iterable):
        return given
    found: list[Any] = []
    seen = 0
    with kept(cuda=True):
        for batch in given:
            if samples is not None and seen >= samples:
                break
            found.append(batch)
            seen += next((len(x) for x in leaves(batch) if x.dim()), 1)
    return found


def _is_batch(given: object) -> bool:
    """Whether data are one batch, as it is called with: (x, y) is one, [x, y] are two."""
    return isinstance(given, Tensor | Mapping) or (isinstance(given, tuple) and isinstance((*given, None)[0], Tensor))


def _examples(splits: Splits, samples: int, seed: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of so many training examples, drawn by the seed."""
    count = len(splits.train)
    part = splits.train if samples >= count else subset(splits.train, holdout(count, samples, seed, "calibration")[1])
    batches = feed(
        part,
        batch_size=_BATCH,
        device=torch.device("cpu"),
        normalisation=splits.normalisation,
        channels_last=False,
        sweep_batch=_BATCH,
    )
    return batches.sweep()


def _inputs(batch: Any, model: nn.Module, place: int) -> Inputs:
    """A batch as a call: of a tuple, as many parts as the forward needs, and the last as labels if any is left."""
    args: tuple[Any, ...]
    if isinstance(batch, Mapping):
        (args, named), rest = _taken(batch, model), ()
    elif isinstance(batch, Tensor):
        args, named, rest = (batch,), {}, ()
    elif isinstance(batch, tuple | list) and batch:
        if isinstance(batch[0], Mapping):
            (args, named), rest = _taken(batch[0], model), tuple(batch[1:])
        else:
            needed = min(len(batch), max(1, _needed(model)))
            args, named, rest = tuple(batch[:needed]), {}, tuple(batch[needed:])
    else:
        raise TombolaError(f"a calibration batch is {described(batch)}; give a tensor, a tuple (x, y) or a mapping")
    if not leaves([args, dict(named)]):
        raise TombolaError("a calibration batch has no tensor; give a tensor, a tuple (x, y) or a mapping of tensors")
    args, named = _placed((args, named), model)
    target = _placed(rest[-1], model, typed=False) if rest and isinstance(rest[-1], Tensor) else None
    return Inputs(args, named, target, place)


def _placed(parts: Any, model: nn.Module, *, typed: bool = True) -> Any:
    """Tensors of any nesting on the network's device, floating-point ones in its dtype."""
    parameters = chain(model.parameters(), model.buffers())
    device, dtype = next((p.device for p in parameters), torch.device("cpu")), input_dtype(model)

    def placed(x: Tensor) -> Tensor:
        own = x.clone() if x.is_inference() else x  # of which there are no gradients
        return own.to(device, dtype) if typed and own.is_floating_point() else own.to(device)

    return mapped(placed, parts)


def _taken(batch: Mapping[str, Any], model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the forward takes of a mapping, by name: data loaders put labels in it that not every network knows.

    One that takes nothing of it by name may take it whole, as its one argument.
    """
    parameters = inspect.signature(model.forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return (), dict(batch)
    taken = {name: value for name, value in batch.items() if name in parameters}
    if not taken and not _takes_whole(batch, model):
        raise TombolaError(
            f"the network takes none of {', '.join(map(str, batch))}, which a calibration batch holds, nor the whole "
            f"as one argument; it takes {', '.join(parameters)}"
        )
    return ((), taken) if taken else ((dict(batch),), {})


def _takes_whole(batch: Mapping[str, Any], model: nn.Module) -> bool:
    """Whether the forward runs with a mapping as its one argument."""
    try:
        with in_mode(model, train=False), torch.no_grad():
            model(_placed(dict(batch), model))
    except Exception:  # a user's network may raise anything
        return False
    return True


def _needed(model: nn.Module) -> int:
    """How many positional arguments the forward cannot do without."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)
