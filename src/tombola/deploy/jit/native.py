"""LLVM code for this machine: one module is optimised and compiled, its functions are found by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from tombola.machine.locks import COMPILING, once

I1, I32, I64, F32 = ir.IntType(1), ir.IntType(32), ir.IntType(64), ir.FloatType()
STEP = ir.FunctionType(ir.VoidType(), [I64.as_pointer(), I64, I64])
"""void f(int64_t *args, int64_t thread, int64_t threads)"""


class Code:
    """A compiled module; its functions live as long as this object. `bitcode`: the module, optimised."""

    def __init__(self, engine: Any, names: Sequence[str], bitcode: bytes) -> None:
        self._engine, self.bitcode = engine, bitcode
        self._addresses = {name: int(engine.get_function_address(name)) for name in names}

    def address(self, name: str) -> int:
        """Where the function `name` starts."""
        return self._addresses[name]


def compile_module(module: ir.Module) -> Code:
    """Optimise for the host's processor and its features, and compile."""
    with COMPILING:
        return _compiled(module)


def _compiled(module: ir.Module) -> Code:
    machine = _machine()
    module.triple = machine.triple
    parsed = llvm.parse_assembly(str(module))
    optimise(parsed, machine)
    bitcode = parsed.as_bitcode()
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    return Code(engine, [function.name for function in module.functions if not function.is_declaration], bitcode)


def optimise(module: Any, machine: Any) -> None:
    """A parsed module, as far as LLVM can."""
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_vectorization = tuning.slp_vectorization = True
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)


def pause(b: ir.IRBuilder) -> None:
    """A hint to the processor that this thread waits in a loop."""
    triple = llvm.get_default_triple()
    words = {"x86_64": "pause", "i686": "pause", "aarch64": "yield", "arm64": "yield"}
    word = words.get(triple.split("-")[0])
    if word:
        b.asm(ir.FunctionType(ir.VoidType(), []), word, "", [], side_effect=True)


def yield_processor(b: ir.IRBuilder) -> None:
    """Let another thread run, where the system offers a call for it."""
    if llvm.address_of_symbol("sched_yield"):
        kind = ir.FunctionType(I32, [])
        b.call(b.inttoptr(ir.Constant(I64, llvm.address_of_symbol("sched_yield")), kind.as_pointer()), [])


def host_features() -> dict[str, bool]:
    """LLVM's names of the processor's features -> whether it has them; empty where the system does not say."""
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:
        return {}


def flags(features: Mapping[str, bool]) -> str:
    """Features as LLVM takes them."""
    return ",".join(f"{'+' if has else '-'}{name}" for name, has in sorted(features.items()))


def file_machine(cpu: str, features: str) -> Any:
    """What compiles object files for this system, and a processor with these features."""
    _start()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="default"
    )


def assembly(module: ir.Module, cpu: str) -> str:
    """The assembly of a module for a processor by LLVM's name, which need not be the host's."""
    with COMPILING:
        machine = file_machine(cpu, "")
        module.triple = machine.triple
        parsed = llvm.parse_assembly(str(module))
        optimise(parsed, machine)
        return str(machine.emit_assembly(parsed))


@once
def _start() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()  # for `pause`


def _machine() -> Any:
    _start()
    target = llvm.Target.from_default_triple()
    features = flags(host_features())
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True, codemodel="jitdefault"
    )
