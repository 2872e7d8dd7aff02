"""What every engine is: a session that carries streams of one plan forward."""

from __future__ import annotations

import torch
from torch import Tensor

from wavedil.audio.distributions.categorical import Sampling
from wavedil.audio.generation.plan import GenerationPlan
from wavedil.core.stream import State, named, part
from wavedil.errors import WavedilError


class Session:
    """A batch of streams of one plan, from a state on.

    Args:
        plan: weights and wiring; see :mod:`wavedil.audio.generation.plan`.
        state: the model's streaming state (``WaveNet.start`` or ``step``, or a session's); it is not changed.
        sampling: temperature and truncation.
        speaker: ``(batch, speaker channels)``, what the plan's layers see besides the features; None where it has none.
        precision: ``"fp32"``, or ``"bf16"`` where the engine stores weights in bfloat16.
        threads: how many the engine may use.
        guidance: other than 1, classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): each stream runs twice,
            with its conditioning and with zeros in its place, as training leaves it out with ``drop_condition``. Both
            hear the same codes, drawn by ``parameters = without + guidance * (with - without)``. For logits that is
            with^guidance * without^(1 - guidance), normalized. A mixture's numbers are taken the same way, component by
            component, log scales too: for Gaussians of equal scale that is the same product.

    An engine fills in ``_open``, ``_run`` and ``_state``. With guidance, states and conditions that it sees have
    ``rows = 2 * batch`` rows, those without conditioning after the others; codes and uniforms have ``batch``.
    """

    #: What ``precision`` may be.
    precisions = ("fp32",)
    #: Whether ``guidance`` may be other than 1.
    supports_guidance = False
    #: How many threads of its own it can use.
    max_threads = 1

    def __init__(
        self,
        plan: GenerationPlan,
        state: State,
        sampling: Sampling | None = None,
        speaker: Tensor | None = None,
        *,
        precision: str = "fp32",
        threads: int = 1,
        guidance: float = 1.0,
    ):
        if precision not in self.precisions:
            raise WavedilError(f"precision is {precision!r}: this engine has {', '.join(self.precisions)}")
        if not isinstance(threads, int) or threads < 1:
            raise WavedilError(f"threads is {threads!r}: expected 1 or more")
        if threads > self.max_threads:
            raise WavedilError(f"threads is {threads}: this engine uses {self.max_threads} at most")
        self.plan, self.sampling = plan, sampling or Sampling()
        plan.distribution.check(self.sampling)
        self.precision, self.threads = precision, threads
        self.batch, self.guidance = state["previous"].shape[0], guidance
        self.rows = self.batch
        if guidance != 1:
            self._check_guidance()
            self.rows = 2 * self.batch
            own = {key: value for key, value in state.items() if not key.startswith("unguided.")}
            other = part(state, "unguided") or own
            state = {key: torch.cat([own[key], value]) for key, value in other.items()}
        self.speaker = self._checked("speaker", speaker, (self.batch, plan.speaker_channels))
        self._open(state)

    @classmethod
    def supports(cls, plan: GenerationPlan, batch: int) -> bool:
        """Whether ``auto`` should take this engine for a plan, where its tensors lie, and a batch of streams."""
        return True

    def run(self, uniforms: Tensor, condition: Tensor | None = None) -> Tensor:
        """The next samples: ``(batch, time)`` float64 uniforms in [0, 1) to ``(batch, time)`` int64 codes.

        ``condition`` ``(batch, condition channels, time)`` holds the features of these samples.
        """
        shape = (self.batch, self.plan.condition_channels, uniforms.shape[1])
        return self._run(uniforms, self._checked("condition", condition, shape), None)

    def score(self, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        """Teacher-forced: ``(batch, time)`` codes to ``(batch, parameters, time)``, what each is predicted by.

        The streams go on as if these codes had been drawn.
        """
        shape = (self.batch, self.plan.condition_channels, codes.shape[1])
        return self._run(None, self._checked("condition", condition, shape), codes)

    def state(self) -> State:
        """The streaming state after all that was run, for a session of any engine, or for the model's ``step``."""
        rows = self._state()
        if self.guidance == 1:
            return rows
        own = {key: value[: self.batch] for key, value in rows.items()}
        return own | named("unguided", {key: value[self.batch :] for key, value in rows.items()})

    def _open(self, state: State) -> None:
        raise NotImplementedError

    def _run(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> Tensor:
        """Codes drawn with the uniforms, or, where codes are forced, the parameters."""
        raise NotImplementedError

    def _state(self) -> State:
        raise NotImplementedError

    def _check_guidance(self) -> None:
        if not 0 <= self.guidance < float("inf"):
            raise WavedilError(f"guidance is {self.guidance}: expected 0 or more, 1 for the model's own distribution")
        if not self.plan.condition_channels and not self.plan.speaker_channels:
            raise WavedilError(f"guidance is {self.guidance}, but the model has no conditioning: leave it out")
        if not self.supports_guidance:
            raise WavedilError(
                f"guidance is {self.guidance}, which this engine does not have: use engine torch, or numba on a CPU"
            )

    def _checked(self, name: str, value: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
        if shape[1] == 0:
            if value is not None:
                raise WavedilError(f"{name} is given, but the model takes none: leave it out")
            return None
        if value is None or tuple(value.shape) != shape:
            found = "none" if value is None else f"of shape {tuple(value.shape)}"
            raise WavedilError(f"{name} is {found}: this model expects {shape}")
        value = value.to(self.plan.device)
        return value if self.guidance == 1 else torch.cat([value, torch.zeros_like(value)])
