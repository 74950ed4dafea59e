"""Whether another network answers as a given one: on the caller's example and on inputs like it, call after call."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from tombola.compact.compare import allowed, difference, outputs
from tombola.compact.inputs import Batch, DrawnInputs, Inputs, inputs_like
from tombola.graph.copies import copied, differ
from tombola.machine.memory import OF_LAYOUT
from tombola.nn.forward import mapped
from tombola.rng.guard import seeded


@contextlib.contextmanager
def plain_tensors() -> Iterator[None]:
    """No gradients, and no inference tensors, which cannot be written to later: also within torch.inference_mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield


Compare = Callable[[Any, Any], float]
"""How far the second of two outputs is off from the first."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a network gave, in one call of a row of calls."""

    what: str
    inputs: Inputs
    output: Any
    seed: int = 0


@dataclass(frozen=True)
class Error:
    """The largest error found, as max|a - b| / max|a|, and on which inputs; infinite where a call was refused."""

    size: float = 0.0
    what: str = ""


@dataclass(frozen=True, eq=False)
class Checks:
    """What a network answers in eval mode, one call after the other, each at a known state of the global generators.

    `answers`: beginning with the example, twice. `batch`: which sizes the network takes. `stateless`: whether calls
    leave the network's parameters, buffers and attributes as they are; `same_attributes`: the last at least. `allowed`:
    the largest error that counts as none.
    """

    answers: tuple[Answer, ...]
    batch: Batch
    stateless: bool
    same_attributes: bool
    allowed: float

    @property
    def example(self) -> Inputs:
        """The user's, cloned: a network may write into its inputs."""
        return tuple(x.clone() for x in self.answers[0].inputs)

    @property
    def other(self) -> Inputs | None:
        """Inputs of another batch size, if the network takes one."""
        sizes = (one.inputs for one in self.answers if not _empty(one))
        return next((x for x in sizes if x[0].shape != self.example[0].shape), None)

    def error(self, network: Callable[..., Any], compare: Compare = difference) -> Error:
        """How far another network's answers are off in the same calls. It is not changed."""
        worst, network = Error(), network if self.stateless else copy.deepcopy(network)
        for answer in self.answers:
            if not _empty(answer):
                off = _off(answer, network, compare)
                worst = off if off.size > worst.size else worst
        return worst

    def takes_none(self, network: Callable[..., Any]) -> bool:
        """Whether the other network gives for an empty batch what the first gives. It is not changed."""
        network = network if self.stateless else copy.deepcopy(network)
        return all(_off(one, network, difference).size <= self.allowed for one in self.answers if _empty(one))


def _empty(answer: Answer) -> bool:
    return not all(x.numel() for x in answer.inputs)


def _off(answer: Answer, network: Callable[..., Any], compare: Compare) -> Error:
    """How far another network's answer is off; infinitely where it refuses the inputs."""
    try:
        have = _call(network, answer.inputs, answer.seed)
    except Exception as error:  # whatever a changed network may raise
        reason = " ".join(str(error).split())[:120]
        return Error(float("inf"), f"{answer.what}, which it refuses: {type(error).__name__} {reason}")
    return Error(compare(answer.output, have), answer.what)


def checks_of(model: nn.Module, example: Sequence[Tensor]) -> Checks:
    """Call copies of a model, and note what they answer. The model itself is not called.

    Raises:
        TombolaError: the model cannot be copied, or cannot run on the example.
    """
    runner, fresh = copied(model), copied(model)
    first = tuple(x.detach().clone() for x in example)
    with _LayoutQuestions() as questions:
        output = _kept(outputs(runner, first))  # a clear line if it cannot
    drawn, batch = inputs_like(lambda *inputs: _kept(_call(runner, inputs, 0)), first, output)
    if questions.asked:
        drawn = (*drawn, *_otherwise_laid(runner, first))
    if not differ(runner, fresh):
        answers = tuple(Answer(one.what, one.inputs, one.output) for one in drawn)
        return Checks(answers, batch, True, True, allowed(answers[0].output))
    same = not differ(runner, fresh, tensors=False)
    runner = copied(model)  # what it answers depends on the calls before
    answers = tuple(
        Answer(one.what, one.inputs, _kept(_call(runner, one.inputs, seed)), seed) for seed, one in enumerate(drawn)
    )
    return Checks(answers, batch, False, same, allowed(answers[0].output))


class _LayoutQuestions(TorchFunctionMode):
    """Notes whether code outside of torch asks how a tensor lies in memory, on which its answers may then depend."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in OF_LAYOUT and _TORCH not in Path(sys._getframe(1).f_code.co_filename).parents:
            self.asked = True
        return func(*args, **(kwargs or {}))


_TORCH = Path(torch.__file__).parent


def _otherwise_laid(network: nn.Module, example: Inputs) -> tuple[DrawnInputs, ...]:
    """The example with channels innermost in memory, matrices by columns, if the network takes it so."""
    laid = tuple(
        x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 2 else x.mT.contiguous().mT if x.dim() == 2 else x
        for x in example
    )
    try:
        return (DrawnInputs("the example laid otherwise in memory", laid, _kept(_call(network, laid, 0))),)
    except Exception:  # whatever a network may raise
        return ()


def _call(network: Callable[..., Any], inputs: Inputs, seed: int) -> Any:
    run = network.forward if isinstance(network, fx.GraphModule) else network  # its call prints errors
    with seeded(seed, cuda=True), torch.no_grad():
        return run(*(x.clone() for x in inputs))


def _kept(output: Any) -> Any:
    """The output with tensors of its own: the network may write into what it returned."""
    return mapped(lambda tensor: tensor.detach().clone(), output)
