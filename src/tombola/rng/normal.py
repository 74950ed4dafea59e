"""The normal quantile function in float64, the same to the last bit wherever IEEE 754 holds.

Wichura, "Algorithm AS 241: The percentage points of the normal distribution", Applied Statistics 37 (1988),
routine PPND16 (relative accuracy about 1e-16). Only +, -, *, /, sqrt and frexp are used, in a fixed order and
one ufunc each, so that neither libm nor fused multiply-adds can change a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Doubles: TypeAlias = npt.NDArray[np.float64]

# Coefficients from the highest power down: numerator, denominator.
_CENTRE = (
    (
        2.5090809287301226727e3,
        3.3430575583588128105e4,
        6.7265770927008700853e4,
        4.5921953931549871457e4,
        1.3731693765509461125e4,
        1.9715909503065514427e3,
        1.3314166789178437745e2,
        3.3871328727963666080e0,
    ),
    (
        5.2264952788528545610e3,
        2.8729085735721942674e4,
        3.9307895800092710610e4,
        2.1213794301586595867e4,
        5.3941960214247511077e3,
        6.8718700749205790830e2,
        4.2313330701600911252e1,
        1.0,
    ),
)
_MIDDLE = (
    (
        7.74545014278341407640e-4,
        2.27238449892691845833e-2,
        2.41780725177450611770e-1,
        1.27045825245236838258e0,
        3.64784832476320460504e0,
        5.76949722146069140550e0,
        4.63033784615654529590e0,
        1.42343711074968357734e0,
    ),
    (
        1.05075007164441684324e-9,
        5.47593808499534494600e-4,
        1.51986665636164571966e-2,
        1.48103976427480074590e-1,
        6.89767334985100004550e-1,
        1.67638483018380384940e0,
        2.05319162663775882187e0,
        1.0,
    ),
)
_FAR = (
    (
        2.01033439929228813265e-7,
        2.71155556874348757815e-5,
        1.24266094738807843860e-3,
        2.65321895265761230930e-2,
        2.96560571828504891230e-1,
        1.78482653991729133580e0,
        5.46378491116411436990e0,
        6.65790464350110377720e0,
    ),
    (
        2.04426310338993978564e-15,
        1.42151175831644588870e-7,
        1.84631831751005468180e-5,
        7.86869131145613259100e-4,
        1.48753612908506148525e-2,
        1.36929880922735805310e-1,
        5.99832206555887937690e-1,
        1.0,
    ),
)

_SQRT_HALF = 0.7071067811865476
_LN2_HIGH = float.fromhex("0x1.62e42fefa2000p-1")  # short, so that small integer multiples are exact
_LN2_LOW = 7.371002565167799e-13
_LOG_SERIES = tuple(2.0 / (2 * k + 1) for k in range(12, -1, -1))


def inverse_normal_cdf(p: Doubles) -> Doubles:
    """x with Phi(x) = p, for p strictly between 0 and 1; any shape, float64."""
    q = p - 0.5
    x = np.empty_like(q)
    central = np.abs(q) <= 0.425
    near = q[central]
    x[central] = near * _ratio(0.180625 - near * near, _CENTRE)

    outer = ~central
    tail = q[outer]
    side = np.minimum(p[outer], 1.0 - p[outer])
    r = np.sqrt(-natural_log(side))
    size = _ratio(r - 1.6, _MIDDLE)
    far = r > 5.0
    if far.any():
        size[far] = _ratio(r[far] - 5.0, _FAR)
    x[outer] = np.where(tail < 0.0, -size, size)
    return x


def natural_log(x: Doubles) -> Doubles:
    """ln x for normal positive float64, within 2 units in the last place away from x = 1; one fixed result.

    x = m * 2**e with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh(s) with s = (m - 1) / (m + 1), |s| < 0.172, by
    its series to s**25.
    """
    m, e = np.frexp(x)
    small = m < _SQRT_HALF
    m = np.where(small, m + m, m)
    exponent = e.astype(np.float64) - small
    s = (m - 1.0) / (m + 1.0)
    log_m = s * _horner(s * s, _LOG_SERIES)
    return exponent * _LN2_HIGH + (log_m + exponent * _LN2_LOW)


def _ratio(r: Doubles, coefficients: tuple[Sequence[float], Sequence[float]]) -> Doubles:
    numerator, denominator = coefficients
    return _horner(r, numerator) / _horner(r, denominator)


def _horner(r: Doubles, coefficients: Sequence[float]) -> Doubles:
    total = np.full_like(r, coefficients[0])
    for coefficient in coefficients[1:]:
        total *= r
        total += coefficient
    return total
