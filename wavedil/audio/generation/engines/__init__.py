"""Engines: each generates the streams of a plan. ``torch`` is the definition, the others compute the same faster."""

import logging
from importlib import import_module

from wavedil.audio.generation.engines.session import Session
from wavedil.audio.generation.plan import GenerationPlan
from wavedil.errors import WavedilError, one_of

__all__ = ["ENGINES", "Session", "choose", "register_engine", "session_class"]

_log = logging.getLogger("wavedil")

#: The session class of each engine, or its import path, which is imported when the engine is first used.
ENGINES: dict[str, type[Session] | str] = {
    "torch": "wavedil.audio.generation.engines.reference.TorchSession",
    "graphs": "wavedil.audio.generation.engines.graphs.GraphSession",
    "numba": "wavedil.audio.generation.engines.cpu.NumbaSession",
    "triton": "wavedil.audio.generation.engines.triton.TritonSession",
}

#: The engines that ``auto`` chooses from, fastest first.
_AUTO = ["triton", "numba", "graphs", "torch"]


def register_engine(name: str, session: type[Session] | str, *, auto: bool = False) -> None:
    """Adds an engine: ``generate(engine=name)`` and ``wavedil sample --engine name`` accept it from then on.

    Args:
        name: of the engine; an engine of this name is replaced.
        session: a subclass of :class:`Session`, or its import path ``"package.module.Class"``.
        auto: whether ``engine="auto"`` prefers it to the others, unless its ``obstacle`` gives a reason not to.

    Raises:
        WavedilError: if the name is ``"auto"``, or the class is not a subclass of :class:`Session`.
    """
    if name == "auto":
        raise WavedilError("name is 'auto', which stands for the fastest engine: choose another name")
    if not isinstance(session, str) and not (isinstance(session, type) and issubclass(session, Session)):
        raise WavedilError(f"session is {session!r}: expected a subclass of Session, or its import path")
    ENGINES[name] = session
    if name in _AUTO:
        _AUTO.remove(name)
    if auto:
        _AUTO.insert(0, name)


def choose(name: str, plan: GenerationPlan, batch: int, guidance: float = 1.0, precision: str = "fp32") -> str:
    """The name of the engine to use: ``auto`` becomes the fastest engine that can run this plan on its device.

    The logger ``wavedil`` records at level debug why engines were skipped.

    Raises:
        WavedilError: for an unknown name, or if no engine that can run the plan has the precision, or if the engine
            computes it wrongly on this machine.
    """
    if name != "auto":
        kind = session_class(name)  # raises for unknown names
        if precision in kind.precisions and kind.obstacle(plan, batch) is None:
            _check_trust(name, kind.is_trusted(plan, batch, precision), precision)
        return name
    classes = {}
    for candidate in _AUTO:
        kind = session_class(candidate)
        reason = kind.obstacle(plan, batch)
        if reason is None and guidance != 1 and not kind.supports_guidance:
            reason = "no guidance"
        if reason is None:
            classes[candidate] = kind
        else:
            _log.debug("engine %s skipped: %s", candidate, reason)
    suitable = [candidate for candidate, kind in classes.items() if precision in kind.precisions]
    if not suitable:
        precisions = list(dict.fromkeys(known for kind in classes.values() for known in kind.precisions))
        raise WavedilError(f"precision is {precision!r}: engines that can run this model have {', '.join(precisions)}")
    trusted = (candidate for candidate in suitable if classes[candidate].is_trusted(plan, batch, precision))
    chosen = next(trusted, None)
    _check_trust(suitable[0], chosen is not None, precision)
    return chosen


def _check_trust(name: str, is_trusted: bool, precision: str) -> None:
    if not is_trusted:
        remedy = "use fp32" if precision != "fp32" else "use engine='torch'"
        raise WavedilError(
            f"precision is {precision!r}: engine {name} computes wrong numbers in it on this machine: {remedy}"
        )


def session_class(name: str) -> type[Session]:
    """The session class of an engine, by name."""
    if name not in ENGINES:
        raise WavedilError(f"engine is {name!r}: expected {one_of(name, ['auto', *ENGINES])}")
    session = ENGINES[name]
    if not isinstance(session, str):
        return session
    module, _, class_name = session.rpartition(".")
    try:
        return getattr(import_module(module), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise WavedilError(f"engine {name!r} is {session}, which cannot be imported ({error})") from error
