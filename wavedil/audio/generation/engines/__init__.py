"""Engines: each runs any plan it supports; ``torch`` is the definition, what stands beside it is faster."""

from __future__ import annotations

from importlib import import_module

from wavedil.audio.generation.engines.session import Session
from wavedil.audio.generation.plan import GenerationPlan
from wavedil.errors import WavedilError

#: name -> (module, class), the slowest and most general first; a module is imported when its engine is asked for.
ENGINES = {
    "torch": ("wavedil.audio.generation.engines.reference", "TorchSession"),
    "graphs": ("wavedil.audio.generation.engines.graphs", "GraphSession"),
    "numba": ("wavedil.audio.generation.engines.cpu", "NumbaSession"),
    "triton": ("wavedil.audio.generation.engines.triton", "TritonSession"),
}

__all__ = ["ENGINES", "Session", "choose", "session_class"]


def choose(name: str, plan: GenerationPlan, batch: int, guidance: float = 1.0, precision: str = "fp32") -> str:
    """The engine that a name stands for: ``auto`` takes the fastest that can run this plan where it lies.

    Raises:
        WavedilError: an unknown name; or ``auto``, and none of those that can has the precision.
    """
    if name != "auto":
        session_class(name)  # refuses unknown names
        return name
    classes = {known: session_class(known) for known in reversed(ENGINES)}
    able = [
        k for k, kind in classes.items() if kind.supports(plan, batch) and (guidance == 1 or kind.supports_guidance)
    ]
    exact = [k for k in able if precision in classes[k].precisions]
    if not exact:
        precisions = sorted({each for k in able for each in classes[k].precisions}, reverse=True)
        raise WavedilError(f"precision is {precision!r}: what can run this model here has {', '.join(precisions)}")
    return exact[0]


def session_class(name: str) -> type[Session]:
    """The session class of an engine by name."""
    if name not in ENGINES:
        raise WavedilError(f"engine is {name!r}: expected one of auto, {', '.join(ENGINES)}")
    module, session = ENGINES[name]
    return getattr(import_module(module), session)
