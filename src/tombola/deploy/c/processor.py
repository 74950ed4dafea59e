"""What compiled code asks of a processor, and the code that looks whether it is there.

The bits are those of the CPUID instruction: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, and
AMD64 Architecture Programmer's Manual, volume 3. The vector registers are also asked of the system, by XGETBV.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir

from tombola.deploy.jit.native import I32, flags, host_features

EAX, EBX, ECX, EDX = range(4)


class Bit(NamedTuple):
    """Where CPUID says that there is a feature, and which state of XCR0 it needs."""

    leaf: int
    subleaf: int
    register: int
    bit: int
    state: int = 0


_AVX, _AVX512 = 0b110, 0b11100110
_FIRST, _EXTENDED = (1, 0), (0x80000001, 0)
_WIDE = {
    "avx512f": (EBX, 16), "avx512dq": (EBX, 17), "avx512ifma": (EBX, 21), "avx512cd": (EBX, 28), "avx512bw": (EBX, 30),
    "avx512vl": (EBX, 31), "avx512vbmi": (ECX, 1), "avx512vbmi2": (ECX, 6), "avx512vnni": (ECX, 11),
    "avx512bitalg": (ECX, 12), "avx512vpopcntdq": (ECX, 14), "avx512fp16": (EDX, 23),
}  # fmt: skip
FEATURES: Mapping[str, Bit] = MappingProxyType(
    {
        **{
            name: Bit(*_FIRST, ECX, bit)
            for name, bit in {
                "sse3": 0, "ssse3": 9, "cx16": 13, "sse4.1": 19, "sse4.2": 20, "movbe": 22, "popcnt": 23,
            }.items()
        },
        **{name: Bit(*_FIRST, ECX, bit, _AVX) for name, bit in {"fma": 12, "avx": 28, "f16c": 29}.items()},
        **{name: Bit(7, 0, EBX, bit) for name, bit in {"bmi": 3, "bmi2": 8}.items()},
        "avx2": Bit(7, 0, EBX, 5, _AVX),
        **{name: Bit(7, 0, *place, _AVX512) for name, place in _WIDE.items()},
        "avx512bf16": Bit(7, 1, EAX, 5, _AVX512),
        **{name: Bit(7, 1, EAX, bit, _AVX) for name, bit in {"avxvnni": 4, "avxifma": 23}.items()},
        **{name: Bit(*_EXTENDED, ECX, bit) for name, bit in {"sahf": 0, "lzcnt": 5}.items()},
    }
)  # fmt: skip
"""LLVM's name of a feature of x86-64 -> where to look. Code in files uses these alone, and the baseline.

Left out is what arithmetic of floats never needs (AES, SHA, one maker's extensions): files run on more processors.
"""
_BASELINE = frozenset(["64bit", "cmov", "cx8", "fxsr", "mmx", "sse", "sse2"])


class Processor(NamedTuple):
    """What code in a file is compiled for. `needs`: features that are not in every processor of the architecture."""

    architecture: str
    cpu: str
    flags: str
    needs: tuple[str, ...]

    @property
    def baseline(self) -> str:
        """LLVM's name of what every processor of the architecture has."""
        return "x86-64" if self.architecture == "x86_64" else "generic"


def this_processor() -> Processor:
    """This one, as far as a library can look for what it has; of another architecture than x86-64 its baseline."""
    architecture = llvm.get_default_triple().split("-")[0]
    if architecture != "x86_64":
        return Processor(architecture, "generic", "", ())
    has = {name: on and name in (*FEATURES, *_BASELINE) for name, on in host_features().items()}
    needs = tuple(sorted(name for name, on in has.items() if on and name in FEATURES))
    return Processor(architecture, llvm.get_host_cpu_name(), flags(has), needs)


def emit_check(module: ir.Module, name: str, needs: Iterable[str]) -> ir.Function:
    """`int32_t f(void)`: 1 if the processor and its system have all of these features of FEATURES, else 0."""
    check = ir.Function(module, ir.FunctionType(I32, []), name)
    b = ir.IRBuilder(check.append_basic_block("entry"))
    wanted: dict[tuple[int, int], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    state = 0
    for bit in (FEATURES[name] for name in needs):
        wanted[bit.leaf, bit.subleaf][bit.register] |= 1 << bit.bit
        state |= bit.state
    if state:
        wanted[_FIRST][ECX] |= 1 << 27  # the system uses XSAVE
    for (leaf, subleaf), registers in sorted(wanted.items()):
        _need(b, b.icmp_unsigned(">=", _cpuid(b, leaf & 0x80000000, 0)[EAX], I32(leaf)))
        if subleaf:
            _need(b, b.icmp_unsigned(">=", _cpuid(b, leaf, 0)[EAX], I32(subleaf)))
        found = _cpuid(b, leaf, subleaf)
        for register, mask in sorted(registers.items()):
            _need(b, b.icmp_unsigned("==", b.and_(found[register], I32(mask)), I32(mask)))
    if state:
        _need(b, b.icmp_unsigned("==", b.and_(_xgetbv(b), I32(state)), I32(state)))
    b.ret(I32(1))
    return check


def _need(b: ir.IRBuilder, there: ir.Value) -> None:
    with b.if_then(b.not_(there)):
        b.ret(I32(0))


def _cpuid(b: ir.IRBuilder, leaf: int, subleaf: int) -> list[ir.Value]:
    """The four registers."""
    kind = ir.FunctionType(ir.LiteralStructType([I32] * 4), [I32, I32])
    ends = "={ax},={bx},={cx},={dx},{ax},{cx}"
    found = b.asm(kind, "cpuid", ends, [I32(leaf), I32(subleaf)], side_effect=True)
    return [b.extract_value(found, i) for i in range(4)]


def _xgetbv(b: ir.IRBuilder) -> ir.Value:
    """The low half of XCR0."""
    kind = ir.FunctionType(ir.LiteralStructType([I32] * 2), [I32])
    found = b.asm(kind, ".byte 0x0f, 0x01, 0xd0", "={ax},={dx},{cx}", [I32(0)], side_effect=True)
    return b.extract_value(found, 0)
