"""The inverse of the standard normal CDF, in arithmetic that every engine can repeat."""

from __future__ import annotations

import torch
from torch import Tensor

# Numerators and denominators, the constant first: around the middle, in the tails, and far out.
CENTRE = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
     2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
TAIL = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
     1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip
FAR = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
     7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)  # fmt: skip


def normal_quantile(v: Tensor) -> Tensor:
    """z with CDF(z) = v for float64 v in (0, 1), to about 1e-15 (Wichura 1988, algorithm AS 241, PPND16).

    With q = v - 1/2, and P(r) by Horner's rule from the highest power down::

        |q| <= 0.425:  r = 0.180625 - q * q,  z = q * CENTRE[0](r) / CENTRE[1](r)
        otherwise:     r = sqrt(-log(min(v, 1 - v)))
                       r <= 5: z = TAIL[0](r - 1.6) / TAIL[1](r - 1.6), else FAR[0](r - 5) / FAR[1](r - 5)
                       z has the sign of q
    """
    q = v - 0.5
    middle = 0.180625 - q * q
    r = torch.sqrt(-torch.log(torch.minimum(v, 1 - v)))
    out = torch.where(r <= 5, _ratio(TAIL, r - 1.6), _ratio(FAR, r - 5))
    near = q * _polynomial(CENTRE[0], middle) / _polynomial(CENTRE[1], middle)
    return torch.where(q.abs() <= 0.425, near, q.sign() * out)


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], r: Tensor) -> Tensor:
    return _polynomial(coefficients[0], r) / _polynomial(coefficients[1], r)


def _polynomial(coefficients: tuple[float, ...], r: Tensor) -> Tensor:
    value = torch.full_like(r, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * r + coefficient
    return value
