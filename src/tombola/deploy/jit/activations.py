"""Activations as code, of vectors of floats or single ones; NaN and infinities come out as of torch's functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from llvmlite import ir

from tombola.deploy.jit.emitter import V8F, V8I, Emitter, constant
from tombola.deploy.jit.native import I32
from tombola.deploy.ops import Activation

Emit = Callable[..., ir.Value]
"""(emitter, value, *numbers) → the activation of the value."""


def activated(e: Emitter, value: ir.Value, activation: Activation | None) -> ir.Value:
    """The activation of a value; the value itself without one."""
    return value if activation is None else EMITTED[activation.name](e, value, *activation.numbers)


def exponential(e: Emitter, x: ir.Value) -> ir.Value:
    """e^x within 2e-7 of itself, as 2^n · e^r with |r| <= ln 2 / 2; e^-86 below that, infinity where it overflows.

    Adding 1.5 · 2^23 rounds to a whole number, and leaves it in the low bits of the sum. NaN passes through.
    """
    b = e.b
    shift = constant(x, 1.5 * 2**23)
    x = _clamp(e, x, -86.0, 89.0)
    rounded = e.fma(x, constant(x, 1 / math.log(2)), shift)
    n = b.fsub(rounded, shift)
    r = e.fma(n, constant(x, -_LN2_HIGH), x)
    r = e.fma(n, constant(x, _LN2_HIGH - math.log(2)), r)
    terms = [constant(x, 1 / math.factorial(k)) for k in reversed(range(8))]  # the next one is below 2^-27
    power = functools.reduce(lambda value, term: e.fma(value, r, term), terms)
    bits = V8I if x.type == V8F else I32
    half = b.shl(b.add(b.bitcast(rounded, bits), constant(bits, 126)), constant(bits, 23))  # of the float 2^(n - 1)
    power = b.fmul(power, b.bitcast(half, x.type))
    return b.fadd(power, power)  # 2^128 is no float


_LN2_HIGH = 355 / 512  # n times it is exact


def _clamp(e: Emitter, x: ir.Value, low: float, high: float) -> ir.Value:
    b, least, most = e.b, constant(x, low), constant(x, high)
    x = b.select(b.fcmp_ordered("<", x, least), least, x)
    return b.select(b.fcmp_ordered(">", x, most), most, x)


def _relu(e: Emitter, x: ir.Value) -> ir.Value:
    zero = constant(x, 0.0)
    return e.b.select(e.b.fcmp_ordered("<", x, zero), zero, x)  # one instruction, maxps(0, x)


def _leaky_relu(e: Emitter, x: ir.Value, slope: float) -> ir.Value:
    b = e.b
    return b.select(b.fcmp_ordered(">", x, constant(x, 0.0)), x, b.fmul(x, constant(x, slope)))


def _over_one_and_power(e: Emitter, top: ir.Value, x: ir.Value) -> ir.Value:
    """top / (1 + e^-x)"""
    return e.b.fdiv(top, e.b.fadd(constant(x, 1.0), exponential(e, e.b.fneg(x))))


def _sigmoid(e: Emitter, x: ir.Value) -> ir.Value:
    return _over_one_and_power(e, constant(x, 1.0), x)


def _silu(e: Emitter, x: ir.Value) -> ir.Value:
    return _over_one_and_power(e, x, x)


def _ramp(e: Emitter, x: ir.Value) -> ir.Value:
    """6 · hardsigmoid(x)"""
    return _clamp(e, e.b.fadd(x, constant(x, 3.0)), 0.0, 6.0)


def _hardsigmoid(e: Emitter, x: ir.Value) -> ir.Value:
    return e.b.fdiv(_ramp(e, x), constant(x, 6.0))


def _hardswish(e: Emitter, x: ir.Value) -> ir.Value:
    return e.b.fdiv(e.b.fmul(x, _ramp(e, x)), constant(x, 6.0))


def _gelu(e: Emitter, x: ir.Value) -> ir.Value:
    """x · Phi(x), where Phi(-|x|) = erfcx(|x| / sqrt 2) · e^(-x² / 2) / 2: no difference of near numbers in it."""
    b, zero = e.b, constant(x, 0.0)
    size = b.select(b.fcmp_ordered("<", x, zero), b.fneg(x), x)
    far = b.fcmp_ordered(">", size, constant(x, _GELU_FAR))
    size = b.select(far, constant(x, _GELU_FAR), size)
    square = b.fmul(size, size)
    lost = e.fma(size, size, b.fneg(square))  # in rounding
    power = exponential(e, b.fmul(square, constant(x, -0.5)))
    power = e.fma(b.fmul(power, constant(x, -0.5)), lost, power)
    place = b.fdiv(b.fsub(size, constant(x, _PLACE)), b.fadd(size, constant(x, _PLACE)))
    terms = [constant(x, value) for value in reversed(_half_scaled_erfc())]
    half = functools.reduce(lambda value, term: e.fma(value, place, term), terms)
    below = b.select(far, zero, b.fmul(half, power))  # Phi(-|x|)
    return b.fmul(x, b.select(b.fcmp_ordered("<", x, zero), below, b.fsub(constant(x, 1.0), below)))


_GELU_FAR = 13.0  # Phi(-13) is below the smallest normal float
_PLACE = 3.75 * math.sqrt(2)  # the polynomial is one of (x - it) / (x + it)


@functools.cache
def _half_scaled_erfc() -> tuple[float, ...]:
    """Coefficients of erfcx(x / sqrt 2) / 2 in (x - _PLACE) / (x + _PLACE), x from 0 to _GELU_FAR: within 1e-8."""
    from numpy.polynomial import Chebyshev, Polynomial
    from scipy.special import erfcx

    last = (_GELU_FAR - _PLACE) / (_GELU_FAR + _PLACE)
    fitted = Chebyshev.interpolate(lambda t: erfcx(3.75 * (1 + t) / (1 - t)) / 2, 10, domain=[-1.0, last])
    return tuple(map(float, fitted.convert(kind=Polynomial).coef))


EMITTED: Mapping[str, Emit] = MappingProxyType(
    {
        "relu": _relu,
        "relu6": functools.partial(_clamp, low=0.0, high=6.0),
        "hardtanh": _clamp,
        "leaky_relu": _leaky_relu,
        "sigmoid": _sigmoid,
        "silu": _silu,
        "hardsigmoid": _hardsigmoid,
        "hardswish": _hardswish,
        "gelu": _gelu,
    }
)
"""Name of an operation of one value and numbers → its code."""
