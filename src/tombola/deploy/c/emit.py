"""Helpers for the functions of a library, as LLVM code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir

from tombola.deploy.jit.native import I32, I64

BYTE = ir.IntType(8)
POINTER = BYTE.as_pointer()
WORDS = I64.as_pointer()
VOID = ir.VoidType()
NOTHING = ir.Constant(POINTER, None)


def started(module: ir.Module, name: str, result: ir.Type, *arguments: ir.Type) -> tuple[ir.Function, ir.IRBuilder]:
    """A function, and the builder at its beginning."""
    function = ir.Function(module, ir.FunctionType(result, arguments), name)
    return function, ir.IRBuilder(function.append_basic_block("entry"))


def constant(module: ir.Module, name: str, value: ir.Constant) -> ir.GlobalVariable:
    """A constant of the module under a name."""
    made = ir.GlobalVariable(module, value.type, name)
    made.linkage, made.global_constant, made.initializer = "internal", True, value
    return made


def numbers(module: ir.Module, name: str, values: Sequence[int], kind: ir.IntType = I64) -> ir.GlobalVariable:
    """An array of constants."""
    return constant(module, name, ir.Constant(ir.ArrayType(kind, len(values)), list(values)))


def text(module: ir.Module, name: str, content: str) -> ir.Constant:
    """The address of a text that ends in 0."""
    held = bytearray(content.encode() + b"\0")
    return constant(module, name, ir.Constant(ir.ArrayType(BYTE, len(held)), held)).bitcast(POINTER)


@contextmanager
def counted(b: ir.IRBuilder, stop: ir.Value) -> Iterator[ir.Value]:
    """for i = 0; i < stop; i += 1"""
    before = b.block
    head, body, done = (b.append_basic_block(name) for name in ("head", "body", "done"))
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(I64)
    i.add_incoming(I64(0), before)
    b.cbranch(b.icmp_signed("<", i, stop), body, done)
    b.position_at_end(body)
    yield i
    i.add_incoming(b.add(i, I64(1)), b.block)
    b.branch(head)
    b.position_at_end(done)


def is_null(b: ir.IRBuilder, pointer: ir.Value) -> ir.Value:
    """Whether a pointer is none."""
    return b.icmp_unsigned("==", b.ptrtoint(pointer, I64), I64(0))


C_LIBRARY = {
    "calloc": ir.FunctionType(POINTER, [I64, I64]),
    "free": ir.FunctionType(VOID, [POINTER]),
    "sched_yield": ir.FunctionType(I32, []),
    "pthread_create": ir.FunctionType(I32, [POINTER] * 4),
    "pthread_join": ir.FunctionType(I32, [I64, POINTER]),
    "pthread_mutex_init": ir.FunctionType(I32, [POINTER] * 2),
    "pthread_cond_init": ir.FunctionType(I32, [POINTER] * 2),
    "pthread_cond_wait": ir.FunctionType(I32, [POINTER] * 2),
    **{
        f"pthread_{what}": ir.FunctionType(I32, [POINTER])
        for what in ("mutex_lock", "mutex_unlock", "mutex_destroy", "cond_signal", "cond_destroy")
    },
}
"""What is called of the C library and of POSIX threads."""


def declared(module: ir.Module) -> dict[str, ir.Function]:
    """The functions of C_LIBRARY, as they are known in the module."""
    return {name: ir.Function(module, kind, name) for name, kind in C_LIBRARY.items()}
