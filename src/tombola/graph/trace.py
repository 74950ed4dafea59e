"""A network as one graph of functional ATen operations, by torch.export.

Operations keep the names under which torch documents them (conv2d, linear, scaled_dot_product_attention, lstm):
nothing is decomposed, so that what stays in torch runs as fast as in the network itself.
"""

from __future__ import annotations

import builtins
import contextlib
import copy
import dataclasses
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import SymInt, Tensor, fx, nn
from torch._subclasses import FakeTensor
from torch.export import Dim, ExportedProgram, export

from tombola.graph.call import CONSTANTS
from tombola.graph.custom import keep_whole, put_back
from tombola.graph.edit import hold, tensor
from tombola.graph.functional import Aliased, make_functional, one_name
from tombola.graph.node import noted, operation, place_of
from tombola.machine.compiling import exporting
from tombola.nn.forward import leaves, mapped


class Untraceable(Exception):
    """torch.export cannot follow a network; the message is the reason, in one line.

    `place`: module and line, as far as they are known.
    """

    def __init__(self, reason: str, place: str = "the model") -> None:
        super().__init__(reason)
        self.place = place


Calling = Callable[[nn.Module, Sequence[Tensor]], Any]
"""How a module is called with tensors."""


def _plainly(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    return module(*inputs)


def traced(
    model: nn.Module,
    inputs: Sequence[Tensor],
    carries: Sequence[bool] | None = None,
    *,
    path: str = "",
    call: Calling = _plainly,
) -> fx.GraphModule:
    """The graph of a model in eval mode, over the model's own parameters and buffers, under their state_dict names.

    Nodes are inputs, tensors by name (get_attr), calls of `torch.ops.aten` and of Tombola's binary layers, and the
    output, in the containers that the model returns. `tombola.graph.node` tells what is known of a node's value, with
    the batch as a symbol, and where it stands. No operation writes into a tensor, but for those at the end that give
    the model's own buffers their new values.

    Args:
        model: plain parameters, in eval mode. It is copied, and only copies are called.
        inputs: as the network takes them.
        carries: of each input, whether its first axis is the batch, which is any then; None: all sizes are fixed.
        path: of the module of the model that is traced; "": all of it. Tensors are named as in the model.
        call: how that module is called with the inputs.

    Raises:
        Untraceable: its forward depends on values, or calls what torch.export does not know.
    """
    returned: list[Any] = []
    flat = _Flat(_sharing_tensors(model.get_submodule(path)), call, returned.append)
    with _reading():
        graph = _functional(_export(flat, inputs, carries, path))
    put_back(graph)
    if not is_data(returned[-1]):
        raise Untraceable("its forward returns other things than tensors and constants", path or "the model")
    return _named(graph, model, path, returned[-1])


def same_in_training(
    model: nn.Module, network: fx.GraphModule, inputs: Sequence[Tensor], *, path: str = "", call: Calling = _plainly
) -> None:
    """Check that a model's forward does in train mode what the graph of its eval mode says, norms and dropout aside.

    Raises:
        Untraceable: it does not.
    """
    flat = _Flat(_sharing_tensors(model.get_submodule(path)), call, lambda _: None).train()
    with _reading():
        other = _module(_export(flat, inputs, None, path))
    if _operations(other) != _operations(network):
        reason = "its forward depends on the mode other than through modules (F.dropout: use nn.Dropout)"
        raise Untraceable(reason, path or "the model")


def _operations(network: fx.GraphModule) -> list[str]:
    """The names of what is called, without what norms count and whether it is done in place."""
    names = (operation(node) for node in network.graph.nodes if node.op == "call_function" and node.users)
    return [name.rstrip("_") for name in names if name != "sym_size"]


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """One network at a time, in silence."""
    with exporting(), torch.no_grad(), warnings.catch_warnings(action="ignore"):
        off = [log.disabled for log in _LOGS]
        builtins.len = _len
        try:
            for log in _LOGS:
                log.disabled = True
            yield
        finally:
            builtins.len = _LEN
            for log, before in zip(_LOGS, off, strict=True):
                log.disabled = before


_LOGS = tuple(
    logging.getLogger(f"torch.{name}")
    for name in ("fx.experimental.symbolic_shapes", "fx.experimental.recording", "_subclasses.fake_tensor")
)
"""Where torch.export tells what it could not follow, which an error here says in one line."""
_LEN = len


def _len(value: Any) -> Any:
    """The length of anything; of a tensor without values the symbol that its size may be, where len gives a number.

    torch.export puts functions of its own in the place of other builtins likewise.
    """
    return value.size(0) if type(value) is FakeTensor and value.dim() else _LEN(value)


def _export(flat: _Flat, inputs: Sequence[Tensor], carries: Sequence[bool] | None, path: str) -> ExportedProgram:
    """The program; of one batch size where the network's code does different things for different ones."""
    own = carries or (False,) * len(inputs)
    free = tuple({0: Dim.AUTO} if batch else {} for batch in own)
    keep_whole(flat.inner)
    try:
        program = export(flat, _of_two(inputs, own), dynamic_shapes=(free,), strict=False)
    except MemoryError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, _Stopped) and error.__cause__ else error
        raise Untraceable(_line(cause), _place(cause, flat.inner, path)) from error
    sizes = _sizes(program)
    unknown = next((node for node, size in sizes if size.node.hint is None), None)
    if unknown is not None:
        raise Untraceable(_OF_VALUES, place_of(unknown, path))
    known = {size.node.shape_env for _, size in sizes}
    branches = not all(_in_proportion(guard.expr) for one in known for guard in one.guards)
    return _export(flat, inputs, None, path) if branches else program


def _sizes(program: ExportedProgram) -> list[tuple[fx.Node, Any]]:
    """All sizes that are no numbers, with the node whose value has them."""
    values = [(node, node.meta.get("val")) for node in program.graph.nodes]
    shapes = [(node, tuple(value.shape)) for node, value in values if isinstance(value, Tensor)]
    return [(node, size) for node, shape in shapes for size in shape if isinstance(size, SymInt)]


def _in_proportion(guard: Any) -> bool:
    """Whether what torch.export noted of sizes, in sympy's terms, says no more than that those of several inputs are
    in proportion: a sum of products with numbers is 0."""
    if getattr(guard, "rel_op", None) != "==":
        return False
    difference = (guard.lhs - guard.rhs).expand()
    polynomial = difference.as_poly(*difference.free_symbols)
    return polynomial is not None and {sum(powers) for powers in polynomial.monoms()} == {1}


def _functional(program: ExportedProgram) -> fx.GraphModule:
    """The program's graph without operations that write into tensors."""
    with contextlib.suppress(Aliased):
        graph = _module(program)
        make_functional(graph)
        return graph
    try:
        graph = _module(program.run_decompositions({}))  # nothing is decomposed, but writes become values
    except Exception as error:
        raise Untraceable(_line(error)) from error
    one_name(graph)
    return graph


def _module(program: ExportedProgram) -> fx.GraphModule:
    made = program.module(check_guards=False)
    assert isinstance(made, fx.GraphModule)
    return made


# ---- before ----------------------------------------------------------------------------------------------------------


class _Flat(nn.Module):
    """The model with its output as a tuple of tensors; `note` is told what it returned."""

    def __init__(self, inner: nn.Module, call: Calling, note: Callable[[Any], None]) -> None:
        super().__init__()
        self.inner = inner
        self._call, self._note = call, note

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """All tensors of the output, in order."""
        try:
            output = self._call(self.inner, inputs)
        except MemoryError:
            raise
        except Exception as error:  # a user's forward may raise anything when its input holds no values
            raise _Stopped from error
        self._note(output)
        return tuple(leaves(output))


class _Stopped(Exception):
    """What a forward raised. torch.export would print the graph until there, which it hangs to an exception."""

    @property
    def partial_fx_graph(self) -> Any:
        """None."""
        raise AttributeError

    @partial_fx_graph.setter
    def partial_fx_graph(self, graph: Any) -> None:
        return


def _sharing_tensors(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are the model's own tensors."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


def _of_two(inputs: Sequence[Tensor], carries: Sequence[bool]) -> tuple[Tensor, ...]:
    """The inputs with at least two rows: torch.export takes a size of 1 for a fixed one."""
    both = zip(inputs, carries, strict=True)
    return tuple(torch.cat([x, x]) if own and len(x) == 1 else x.clone() for x, own in both)


def _line(error: BaseException) -> str:
    """The first line of what torch.export says, which is long."""
    if type(error).__name__ in _DEPENDS:
        return _OF_VALUES
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"torch.export cannot follow it: {type(error).__name__} {text}"[:240]


_OF_VALUES = "torch.export cannot follow it: it depends on the values of a tensor (an if, a loop, an item or a shape)"
_DEPENDS = ("GuardOnDataDependentSymNode", "DataDependentOutputException", "DynamicOutputShapeException")


def _place(error: BaseException, model: nn.Module, path: str) -> str:
    """The module, and the line of code outside of torch, where an error was raised."""
    names = {id(module): name for name, module in model.named_modules()}
    found, module = "", ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        own = frame.f_locals.get("self")
        module = names.get(id(own), module)
        file = Path(frame.f_code.co_filename)
        if module in names.values() and not any(room in file.parents for room in _NOT_A_USERS):
            found = f" (line {line} of {file.name})"
    return (".".join(filter(None, (path, module))) or "the model") + found


_NOT_A_USERS = (Path(torch.__file__).parent, Path(__file__).parent)


# ---- after -----------------------------------------------------------------------------------------------------------


def _named(graph: fx.GraphModule, model: nn.Module, path: str, output: Any) -> fx.GraphModule:
    """The graph over the model's tensors by their own names, with plain inputs and the model's kind of output."""
    own = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    made, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    root = nn.Module()
    for node in graph.graph.nodes:
        if operation(node) == "_assert_tensor_metadata":  # of what it was traced with
            continue
        if node.op == "output":
            _return(made, root, [copies[one] for one in node.args[0]], output)
        elif node.op == "get_attr":
            value = tensor(graph, str(node.target))
            name = own.get(id(value)) or str(node.target).replace(".", "_")
            hold(root, name, value)
            copies[node] = made.get_attr(name)
            copies[node].meta = noted(node, path, value)
        else:
            copies[node] = made.node_copy(node, copies.__getitem__)
            copies[node].meta = noted(node, path)
    finished = fx.GraphModule(root, made)
    finished.graph.eliminate_dead_code()
    finished.recompile()
    return finished


def is_data(output: Any) -> bool:
    """Whether an output is tensors and constants, in containers that can be made again."""
    if isinstance(output, (Tensor, *CONSTANTS)):
        return True
    if isinstance(output, MutableMapping):
        return all(map(is_data, output.values()))
    if isinstance(output, tuple | list):
        return all(map(is_data, output))
    return dataclasses.is_dataclass(output) and all(is_data(value) for value in vars(output).values())


class Structure(nn.Module):
    """Tensors put into the containers of an output, whatever these are."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = mapped(lambda tensor: torch.empty(0, dtype=tensor.dtype, device="cpu"), output)

    def forward(self, *tensors: Tensor) -> Any:
        """As many tensors as the output holds, in order."""
        left = iter(tensors)
        return mapped(lambda _: next(left), self.output)


def _return(graph: fx.Graph, root: nn.Module, values: list[fx.Node], output: Any) -> None:
    if isinstance(output, Tensor):
        graph.output(values[0])
    elif type(output) is tuple and all(isinstance(one, Tensor) for one in output):
        graph.output(tuple(values))
    else:
        root.add_module("output_structure", Structure(output))
        graph.output(graph.call_module("output_structure", tuple(values)))
