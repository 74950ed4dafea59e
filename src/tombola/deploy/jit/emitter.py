"""Helpers for emitting LLVM code: loops, vectors of 8 floats, addresses in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir

from tombola.deploy.jit.native import F32, I32, I64, STEP, Code, compile_module

LANES = 8
V8F, V8I = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
BYTES = ir.IntType(8).as_pointer()
Turn = Callable[[ir.Value, list[ir.Value]], list[ir.Value]]
"""(index, values) → the values after this turn of a loop."""
ZERO = ir.Constant(V8F, [0.0] * LANES)


def constant(like: ir.Value | ir.Type, number: float) -> ir.Constant:
    """The number, in all lanes if `like` is a vector or its type."""
    kind = getattr(like, "type", like)
    return ir.Constant(kind, [number] * LANES if isinstance(kind, ir.VectorType) else number)


class Emitter:
    """A step function under construction: `b` is the builder, `arg(i)` word i of its arguments."""

    def __init__(self, name: str) -> None:
        self.module = ir.Module(name)
        self.function = ir.Function(self.module, STEP, "step")
        self.args, self.thread, self.threads = self.function.args
        self.args.add_attribute("noalias")
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))

    def arg(self, index: int) -> ir.Value:
        """Word `index` of the arguments, int64."""
        return self.b.load(self.b.gep(self.args, [I64(index)]))

    def named(self, names: Sequence[str]) -> dict[str, ir.Value]:
        """The words of the arguments by name; one listed as "*name" is an address of bytes."""
        return {
            name.removeprefix("*"): self.pointer(i) if name.startswith("*") else self.arg(i)
            for i, name in enumerate(names)
        }

    def compiled(self) -> Code:
        """The finished module, compiled; its function is called "step"."""
        return compile_module(self.ended())

    def ended(self) -> ir.Module:
        """The finished module."""
        self.b.ret_void()
        return self.module

    def pointer(self, index: int) -> ir.Value:
        """Word `index` of the arguments as an address of bytes."""
        return self.b.inttoptr(self.arg(index), BYTES)

    @contextmanager
    def loop(self, start: ir.Value, stop: ir.Value, step: int = 1) -> Iterator[ir.Value]:
        """for i = start; i < stop; i += step (int64)."""
        b = self.b
        before = b.block
        head, body, done = (b.append_basic_block(name) for name in ("head", "body", "done"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(start, before)
        b.cbranch(b.icmp_signed("<", i, stop), body, done)
        b.position_at_end(body)
        yield i
        i.add_incoming(b.add(i, I64(step)), b.block)
        b.branch(head)
        b.position_at_end(done)

    def fold(
        self, extent: tuple[ir.Value, ir.Value], step: int, values: Sequence[ir.Value], turn: Turn
    ) -> list[ir.Value]:
        """values = turn(i, values) for i = extent[0]; i != extent[1]; i += step; the final values."""
        start, stop = extent
        b = self.b
        before = b.block
        head, body, done = (b.append_basic_block(name) for name in ("head", "body", "done"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(start.type)
        phis = [b.phi(value.type) for value in values]
        b.cbranch(b.icmp_unsigned("!=", i, stop), body, done)
        b.position_at_end(body)
        after = turn(i, phis)
        further = b.add(i, I64(step))
        b.branch(head)
        for phi, first, last in zip((i, *phis), (start, *values), (further, *after), strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(last, b.block)
        b.position_at_end(done)
        return phis

    def share(self, count: ir.Value) -> tuple[ir.Value, ir.Value]:
        """This thread's part of range(count): (begin, end)."""
        b = self.b
        return (
            b.sdiv(b.mul(count, self.thread), self.threads),
            b.sdiv(b.mul(count, b.add(self.thread, I64(1))), self.threads),
        )

    def at(self, base: ir.Value, offset: ir.Value | int) -> ir.Value:
        """The address `offset` bytes further on."""
        return self.b.gep(base, [I64(offset) if isinstance(offset, int) else offset])

    def load(self, base: ir.Value, offset: ir.Value | int = 0, kind: ir.Type = V8F) -> ir.Value:
        """The value there, aligned to 4 bytes (8 for int64)."""
        value = self.b.load(self.b.bitcast(self.at(base, offset), kind.as_pointer()))
        value.align = 8 if kind == I64 else 4
        return value

    def store(self, value: ir.Value, base: ir.Value, offset: ir.Value | int = 0) -> None:
        """Write a value there, of 4-byte alignment."""
        self.b.store(value, self.b.bitcast(self.at(base, offset), value.type.as_pointer()), align=4)

    def splat(self, value: ir.Value) -> ir.Value:
        """The number in all lanes."""
        kind = ir.VectorType(value.type, LANES)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
        return self.b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(V8I, [0] * LANES))

    def fma(self, a: ir.Value, x: ir.Value, c: ir.Value) -> ir.Value:
        """a·x + c, fused where the processor can."""
        name = "llvm.fmuladd.v8f32" if a.type == V8F else "llvm.fmuladd.f32"
        kind = ir.FunctionType(a.type, [a.type] * 3)
        intrinsic = self.module.globals.get(name) or ir.Function(self.module, kind, name)
        return self.b.call(intrinsic, [a, x, c])

    def larger(self, one: ir.Value, other: ir.Value) -> ir.Value:
        """The larger of two, of floats or vectors; NaN where either is."""
        b = self.b
        best = b.select(b.fcmp_ordered(">", other, one), other, one)  # `one` where either is NaN
        bits = V8I if one.type == V8F else I32
        nan = b.sext(b.fcmp_unordered("uno", other, other), bits)  # all bits of a NaN are set: a NaN
        return b.bitcast(b.or_(b.bitcast(best, bits), nan), one.type)
