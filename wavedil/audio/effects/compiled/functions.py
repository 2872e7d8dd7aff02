"""Activations in C: the expressions of those that :mod:`wavedil.audio.models.activations` makes."""

from dataclasses import dataclass

from torch import nn

from wavedil.audio.generation.plan import checked_weight
from wavedil.audio.models.activations import LeakyHardtanh, PReLU, Softsigmoid
from wavedil.errors import WavedilError, with_article


@dataclass(frozen=True)
class Function:
    """A function of one sample by its name in ``EXPRESSIONS``; ``parameters`` are numbers, or one per channel."""

    name: str
    parameters: tuple[tuple[float, ...], ...] = ()


#: C expressions of the vector x; p0, p1 … are the parameters.
EXPRESSIONS = {
    "identity": "x",
    "elu": "choose(x > 0, x, p0 * (exp_v(min_v(x, splat(0))) - 1))",
    "gelu": "0.5f * x * (1 + erf_v(0.70710678f * x))",
    "hardsigmoid": "clamp_v(x * (1.0f / 6) + 0.5f, 0, 1)",
    "hardswish": "x * clamp_v(x * (1.0f / 6) + 0.5f, 0, 1)",
    "hardtanh": "min_v(max_v(x, p0), p1)",
    "leaky_hardtanh": "min_v(max_v(x, p0), p1) + p2 * min_v(x - p0, splat(0)) + p3 * max_v(x - p1, splat(0))",
    "leaky_relu": "max_v(x, splat(0)) + p0 * min_v(x, splat(0))",
    "relu": "max_v(x, splat(0))",
    "selu": "1.05070099f * choose(x > 0, x, 1.67326324f * (exp_v(min_v(x, splat(0))) - 1))",
    "sigmoid": "1 / (1 + exp_v(-x))",
    "silu": "x / (1 + exp_v(-x))",
    "softsigmoid": "0.5f + 0.5f * (x / (1 + abs_v(x)))",
    "softsign": "x / (1 + abs_v(x))",
    "tanh": "tanh_v(x)",
}
_PLAIN = {
    nn.GELU: "gelu", nn.Hardsigmoid: "hardsigmoid", nn.Hardswish: "hardswish", nn.Identity: "identity",
    nn.ReLU: "relu", nn.SiLU: "silu", nn.Sigmoid: "sigmoid", Softsigmoid: "softsigmoid", nn.Softsign: "softsign",
    nn.Tanh: "tanh",
}  # fmt: skip


def function_of(module: nn.Module) -> Function:
    """The function of an activation module.

    Raises:
        WavedilError: there is no C expression for it.
    """
    kind = type(module)
    if kind is nn.GELU and module.approximate != "none":
        kind = None
    if kind in _PLAIN:
        return Function(_PLAIN[kind])
    if kind is nn.ELU:
        return Function("elu", ((module.alpha,),))
    if kind is nn.Hardtanh:
        return Function("hardtanh", ((module.min_val,), (module.max_val,)))
    if kind is LeakyHardtanh:
        values = module.min_val, module.max_val, module.min_slope, module.max_slope
        return Function("leaky_hardtanh", tuple((value,) for value in values))
    if kind is nn.LeakyReLU:
        return Function("leaky_relu", ((module.negative_slope,),))
    if kind in (nn.PReLU, PReLU):
        return Function("leaky_relu", (tuple(checked_weight(module.weight.detach()).tolist()),))
    if kind is nn.SELU:
        return Function("selu")
    raise WavedilError(f"the activation is {with_article(module)}: expected one of those of .nam files, for C")
