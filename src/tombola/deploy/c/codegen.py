"""The object file: kernels, the library's own functions and the weights, as one module of LLVM's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from tombola.deploy.c.image import Image
from tombola.deploy.c.ort import ENTRY, ort_operators
from tombola.deploy.c.passes import Passes
from tombola.deploy.c.processor import Processor
from tombola.deploy.c.runtime import runtime
from tombola.deploy.jit.native import Code, file_machine, optimise
from tombola.errors import TombolaError
from tombola.machine.locks import COMPILING

MOST = 2**30
"""Bytes of weights: addresses in an object file are relative, and reach 2 GB."""


def object_file(network: Passes, image: Image, name: str, processor: Processor) -> bytes:
    """Compiled for the processor; the only names to be seen from outside are those of the header, `name`_*.

    Raises:
        TombolaError: more weights than an object file can reach.
    """
    if len(image.data) > MOST:
        raise TombolaError(f"its weights take {len(image.data):,} bytes, and C's file holds 1 GB; leave format c out")
    with COMPILING:
        machine = file_machine(processor.cpu, processor.flags)
        own = _own(runtime(network, image, name, processor.needs), processor, machine)
        own.link_in(_data(image.data, machine))
        for i, code in enumerate(image.codes):
            own.link_in(_kernel(code, f"step_{i + 1}"))
        own.verify()
        _hide(own, f"{name}_")
        return bytes(machine.emit_object(own))


def operator_file(regions: Mapping[str, Passes], domain: str, processor: Processor) -> bytes:
    """What makes libraries, by the names that theirs begin with, operators of ONNX Runtime: linked to them."""
    with COMPILING:
        machine = file_machine(processor.baseline, "")
        own = _own(ort_operators(regions, domain), processor, machine)
        _hide(own, ENTRY)
        return bytes(machine.emit_object(own))


def _hide(module: Any, name: str) -> None:
    """All names but those that begin with this one."""
    for one in (*module.functions, *module.global_variables):
        if not one.is_declaration and not one.name.startswith(name):
            one.linkage = "internal"


def _own(module: Any, processor: Processor, machine: Any) -> Any:
    """The library's own functions, for every processor of the architecture."""
    attributes = f'nounwind "target-cpu"="{processor.baseline}" "target-features"=""'
    text = re.sub(r"^(define .*)$", rf"\1 {attributes}", str(module), flags=re.MULTILINE)
    parsed = llvm.parse_assembly(text)
    parsed.triple, parsed.data_layout = machine.triple, str(machine.target_data)
    parsed.verify()
    optimise(parsed, machine)
    return parsed


def _kernel(code: Code, name: str) -> Any:
    """Its optimised module, with its function under that name."""
    parsed = llvm.parse_bitcode(code.bitcode)
    parsed.get_function("step").name = name
    return parsed


def _data(content: bytes, machine: Any) -> Any:
    text = f'@data = constant [{max(len(content), 1)} x i8] c"{_escaped(content or bytes(1))}", align 64\n'
    parsed = llvm.parse_assembly(text)
    parsed.triple, parsed.data_layout = machine.triple, str(machine.target_data)
    return parsed


def _escaped(content: bytes) -> str:
    r"""Each byte as \xx."""
    read = np.frombuffer(content, np.uint8)
    digits = np.frombuffer(b"0123456789ABCDEF", np.uint8)
    return np.stack([np.full_like(read, ord("\\")), digits[read >> 4], digits[read & 15]], 1).tobytes().decode("ascii")
