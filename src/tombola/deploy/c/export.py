"""A deployed network as a library for C, C++ and Rust: the same kernels, no Python."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from errno import EISDIR
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tombola.deploy.c.codegen import object_file
from tombola.deploy.c.header import header
from tombola.deploy.c.image import image_of
from tombola.deploy.c.link import LINKERS, link, link_line, linker
from tombola.deploy.c.loaded import Loaded
from tombola.deploy.c.passes import Passes, passes_of
from tombola.deploy.c.processor import this_processor
from tombola.deploy.deploy import Deployed
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.runs.atomic import cannot_write, make_folder, write_atomically
from tombola.runs.versions import versions


@checked
def export_library(deployed: Deployed, folder: Path, name: str = "network") -> dict[str, dict[str, Any]]:
    """Write a deployed network as a C library: the kernels that were chosen, its weights, a header.

    Written are `name`.h, `name`.o and, where this system has a linker, lib`name`.so (.dylib on macOS). The library is
    loaded first, and run at 1 thread and at as many as were deployed with: its outputs are the deployed network's, bit
    for bit. It asks when a context is made whether the processor has what the code needs.

    Args:
        deployed: from `deploy`; all of it runs in native kernels.
        folder: created if it does not exist.
        name: of the files, and what every name in the header begins with.

    Returns:
        File name -> {"format", "bytes", "error", "batch"}, as of `tombola.deploy.export.export`: error is 0, and null
        for what was not run.

    Raises:
        TombolaError: a name that is none in C, a system other than Linux and macOS, a network of which something stays
            in torch, a linker that fails, outputs that are not the deployed network's.
    """
    files = {"object": f"{name}.o", "header": f"{name}.h", "shared": _shared(name)}
    check_place(folder, name, tuple(files.values()))
    network = passes_of(deployed)
    processor = this_processor()
    compiled = object_file(network, image_of(network), name, processor)
    text = header(network, name, processor, versions()["tombola"])
    contents = {files["header"]: text.encode(), files["object"]: compiled}
    error: float | None = None
    program = linker()
    if program is not None:
        contents[files["shared"]] = _linked(program, compiled, name, network, deployed)
        error = 0.0
    make_folder(folder)
    with ExitStack() as stack:  # they get their names together, when all are written
        for file, content in contents.items():
            stack.enter_context(write_atomically(folder / file)).write(content)
    run = (files["object"], files["shared"])
    return {
        file: {"format": "c", "bytes": len(content), "error": error if file in run else None, "batch": network.batch}
        for file, content in contents.items()
    }


def check_place(folder: Path, name: str, files: Sequence[str]) -> None:
    """TombolaError where files of a library, and names that begin so, cannot be written."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
        raise TombolaError(f"name is {name[:80]!r}; give small letters, digits and underscores, a letter first")
    if not sys.platform.startswith(("linux", "darwin")) or sys.maxsize < 2**32:
        raise TombolaError("libraries are written on 64-bit Linux and macOS alone; leave this format out")
    for path in (folder / file for file in files):
        if path.is_dir():
            raise cannot_write(path, IsADirectoryError(EISDIR, "it is a folder"))


def how_to_link(name: str = "network") -> str:
    """What is said where there was no linker."""
    line = " ".join(link_line("cc", [f"{name}.o"], _shared(name)))
    return f"no linker here ({', '.join(LINKERS)}): link {name}.o into your program with -pthread, or run {line}"


def _shared(name: str) -> str:
    return f"lib{name}.dylib" if sys.platform == "darwin" else f"lib{name}.so"


def _linked(program: str, compiled: bytes, name: str, network: Passes, deployed: Deployed) -> bytes:
    """The shared library, once it has given the deployed network's outputs."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, f"{name}.o"), Path(folder, _shared(name))
        source.write_bytes(compiled)
        link(program, [source], target)
        try:
            loaded = Loaded(target, name)
        except OSError as error:
            raise TombolaError(f"the library cannot be loaded: {error}; leave format c out") from error
        with loaded:
            for threads in {1, network.threads}:
                _check(loaded, threads, network, deployed)
        return target.read_bytes()


def _check(loaded: Loaded, threads: int, network: Passes, deployed: Deployed) -> None:
    """TombolaError where outputs are not the deployed network's, to the bit."""
    shapes = [port.shape for port in network.outputs]
    context = loaded.create(threads)
    try:
        for inputs in _drawn(network, deployed):
            want, _ = torch.utils._pytree.tree_flatten(deployed.regions(*inputs))
            have = loaded.run(context, inputs, shapes)
            if not all(torch.equal(_bits(a), _bits(b)) for a, b in zip(want, have, strict=True)):
                raise TombolaError(
                    f"at {threads} threads the library gives other outputs than the deployed network for a batch of "
                    f"{len(inputs[0])}; leave format c out, and tell us"
                )
    finally:
        loaded.destroy(context)


def _drawn(network: Passes, deployed: Deployed) -> Iterator[list[Tensor]]:
    """Standard normal inputs of a few batch sizes."""
    draw = torch.Generator().manual_seed(0)
    size = deployed.takes.batch.size
    for batch in (size,) if network.batch is not None else sorted({1, size, 2 * size + 3}):
        yield [
            torch.randn((batch, *one.shape), generator=draw, dtype=torch.float32, device="cpu")
            for one in network.inputs
        ]


def _bits(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(torch.int32)
