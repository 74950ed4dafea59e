"""A deployed network as ONNX: regions as operators of a library beside, all else as ONNX's own."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tombola.compact.checks import plain_tensors
from tombola.compact.compare import largest_error
from tombola.deploy.c.codegen import object_file, operator_file
from tombola.deploy.c.export import check_place
from tombola.deploy.c.image import image_of
from tombola.deploy.c.link import LINKERS, link, linker
from tombola.deploy.c.ort import THREADS
from tombola.deploy.c.passes import Passes, native_modules, region_alone
from tombola.deploy.c.processor import this_processor
from tombola.deploy.deploy import TOLERANCE, Deployed
from tombola.deploy.export import attempt, check_formats
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.runs.atomic import make_folder, write_atomically

_FEW_SPINS = 2_000  # of many operators: the threads of one leave the cores to those of the next
_OPTION = "leave format onnx_kernels out"


@checked
def export_operators(
    deployed: Deployed, example: Sequence[Tensor], folder: Path, name: str = "network"
) -> dict[str, dict[str, Any]]:
    """Write a deployed network for ONNX Runtime, with its kernels: `name`-kernels.onnx, lib`name`_kernels.so.

    Each region that runs in native kernels is an operator of the library; what runs in torch is written in ONNX's
    operators. To use it: `options.register_custom_ops_library("libnetwork_kernels.so")`, of the session's options. Both
    files are run here first, in ONNX Runtime, on the example and on twice its rows.

    Args:
        deployed: from `deploy`; some of it runs in native kernels.
        example: its inputs, the batch first.
        folder: created if it does not exist.
        name: of the files, of the operators' domain, tombola.`name`, and what the library's names begin with.

    Returns:
        As of `tombola.deploy.export.export`: file name -> {"format", "bytes", "error", "batch"}.

    Raises:
        TombolaError: a name that is none in C; no linker; a missing package; a network that has no region in native
            kernels, that ONNX cannot say, or that gives other outputs there.
    """
    files = {"model": f"{name}-kernels.onnx", "library": f"lib{name}_kernels.so"}
    check_place(folder, name, tuple(files.values()))
    check_formats(["onnx"])
    program = linker()
    if program is None:
        raise TombolaError(
            f"ONNX Runtime loads a shared library, and no linker ({', '.join(LINKERS)}) is here; {_OPTION}"
        )
    modules = native_modules(deployed.regions)
    if not modules:
        raise TombolaError(f"nothing of the network runs in native kernels; deploy with kernels_only, or {_OPTION}")
    spins = 30_000 if len(modules) == 1 else _FEW_SPINS
    regions = {
        f"{name}_{i}": region_alone(module, deployed.plan.threads, spins) for i, module in enumerate(modules.values())
    }
    domain = f"tombola.{name}"
    with plain_tensors():
        content = _model(deployed, dict(zip(modules, regions.items(), strict=True)), domain)
    with tempfile.TemporaryDirectory() as place:
        target = Path(place, files["library"])
        _link(program, regions, domain, target)
        error = _checked(content, target, deployed, example)
        contents = {files["model"]: content, files["library"]: target.read_bytes()}
    make_folder(folder)
    with ExitStack() as stack:  # they get their names together, when all are written
        for file, written in contents.items():
            stack.enter_context(write_atomically(folder / file)).write(written)
    batch = None if deployed.takes.batch.only is None else deployed.takes.batch.size
    return {
        file: {"format": "onnx_kernels", "bytes": len(written), "error": error, "batch": batch}
        for file, written in contents.items()
    }


class _Symbolic(nn.Module):
    """An operator as torch.onnx writes it: nothing is computed."""

    def __init__(self, operator: str, threads: int, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self._operator, self._threads, self._shapes = operator, threads, shapes

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs that have the right shapes."""
        return tuple(
            torch.onnx.ops.symbolic_multi_out(
                self._operator,
                inputs,
                {THREADS: self._threads},
                dtypes=[torch.float32] * len(self._shapes),
                shapes=[(inputs[0].shape[0], *shape) for shape in self._shapes],
                version=1,
            )
        )


def _model(deployed: Deployed, operators: Mapping[str, tuple[str, Passes]], domain: str) -> bytes:
    """The ONNX file. `operators`: path of a module -> the operator's name and the region."""
    network, takes = copy.deepcopy(deployed.regions), deployed.takes
    for path, (operator, region) in operators.items():
        shapes = [port.shape for port in region.outputs]
        network.set_submodule(path, _Symbolic(f"{domain}::{operator}", region.threads, shapes))
    free = takes.batch.only is None
    batch = torch.export.Dim("batch")
    axes = tuple({0: batch} if free and own else None for own in takes.batch.carries)
    inputs = tuple(
        torch.zeros((2, *shape[1:]) if free and own else shape, dtype=dtype, device="cpu")
        for shape, dtype, own in zip(takes.shapes, takes.dtypes, takes.batch.carries, strict=True)
    )

    def written() -> bytes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from within the exporter
            program = torch.onnx.export(
                network.eval(), inputs, dynamo=True, verbose=False, dynamic_shapes=axes if free else None
            )
        return bytes(program.model_proto.SerializeToString())  # type: ignore[union-attr]

    return attempt("ONNX", written)  # type: ignore[no-any-return]


def _link(program: str, regions: Mapping[str, Passes], domain: str, target: Path) -> None:
    processor = this_processor()
    contents = [object_file(region, image_of(region), name, processor) for name, region in regions.items()]
    contents.append(operator_file(regions, domain, processor))
    sources = [target.with_name(f"{i}.o") for i in range(len(contents))]
    for source, content in zip(sources, contents, strict=True):
        source.write_bytes(content)
    link(program, sources, target)


def _checked(content: bytes, library: Path, deployed: Deployed, example: Sequence[Tensor]) -> float:
    """How far ONNX Runtime's outputs are from the deployed network's, if it is near enough. Raises TombolaError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised as well
    attempt("ONNX", lambda: options.register_custom_ops_library(str(library)))
    session = attempt(
        "ONNX", lambda: onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    )
    names = [one.name for one in session.get_inputs()]
    takes, worst = deployed.takes, 0.0
    twice = tuple(torch.cat([x, x]) if own else x for x, own in zip(example, takes.batch.carries, strict=True))
    for inputs in (tuple(example), twice) if takes.batch.only is None else (tuple(example),):
        with torch.no_grad():
            want = deployed.regions(*inputs)
        feed = {one: x.detach().numpy() for one, x in zip(names, inputs, strict=True)}
        have = [torch.from_numpy(np.asarray(x)) for x in attempt("ONNX", lambda feed=feed: session.run(None, feed))]  # type: ignore[misc]
        flat = torch.utils._pytree.tree_flatten(want)[0]
        worst = max(worst, *(largest_error(a, b) for a, b in zip(flat, have, strict=True)))
    if not worst <= TOLERANCE:
        raise TombolaError(f"in ONNX Runtime the network gives outputs that differ by {worst:.1e}; {_OPTION}")
    return worst
