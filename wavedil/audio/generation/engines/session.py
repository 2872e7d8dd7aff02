"""The base class of engines: a session generates the streams of one plan."""

from typing import Annotated

import torch
from torch import Tensor

from wavedil.audio.distributions.base import Sampling
from wavedil.audio.generation.plan import PREVIOUS, UNGUIDED, GenerationPlan
from wavedil.core.schema import Range, checked
from wavedil.core.stream import State, add_prefix, substate
from wavedil.errors import WavedilError

Guidance = Annotated[float, Range(0, 1e9)]
Threads = Annotated[int, Range(1, 2**16)]


class Session:
    """Generates a batch of streams of one plan, starting from a state.

    An engine is a subclass. It overrides :meth:`setup`, :meth:`advance` and :meth:`current_state`, and :meth:`obstacle`
    if there are plans that it cannot run. ``register_engine(name, subclass)`` makes it known to ``generate``.

    Args:
        plan: weights and wiring; see :mod:`wavedil.audio.generation.plan`.
        state: a streaming state of the model (``WaveNet.start`` or ``step``) or of another session; it is not changed.
        sampling: temperature and truncation.
        speaker: speaker embeddings ``(batch, speaker channels)``; None if the plan has no speaker channels.
        precision: ``"fp32"``, or another of the engine's ``precisions`` of weights and of inputs of products.
        threads: number of threads that the engine uses.
        guidance: other than 1, classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598). Each stream then runs
            twice, once with its conditioning and once with zeros in its place, as training with ``drop_condition``
            does. Both copies read the same codes, drawn from
            ``parameters = without + guidance * (with - without)``. For logits that is
            with^guidance * without^(1 - guidance), normalized. The parameters of a mixture are combined in the same
            way, component by component, log scales included; for Gaussians of equal scale that is the same product.
    """

    #: The values that ``precision`` may have.
    precisions = ("fp32",)
    #: Whether ``guidance`` may be other than 1.
    supports_guidance = False
    #: The largest value of ``threads``.
    max_threads = 1

    @checked
    def __init__(
        self,
        plan: GenerationPlan,
        state: State,
        sampling: Sampling | None = None,
        speaker: Tensor | None = None,
        *,
        precision: str = "fp32",
        threads: Threads = 1,
        guidance: Guidance = 1.0,
    ):
        if precision not in self.precisions:
            raise WavedilError(f"precision is {precision!r}: this engine has {', '.join(self.precisions)}")
        if threads > self.max_threads:
            raise WavedilError(f"threads is {threads}: this engine uses {self.max_threads} at most")
        self.plan, self.sampling = plan, sampling or Sampling()
        plan.distribution.check(self.sampling)
        self.precision, self.threads = precision, threads
        self.batch, self.guidance = state[PREVIOUS].shape[0], guidance
        self.rows = self.batch
        if guidance != 1:
            self._check_guidance()
            self.rows = 2 * self.batch
            guided = {key: value for key, value in state.items() if not key.startswith(f"{UNGUIDED}.")}
            unguided = substate(state, UNGUIDED) or guided
            state = {key: torch.cat([guided[key], value]) for key, value in unguided.items()}
        self.speaker = self._check_conditioning("speaker", speaker, (self.batch, plan.speaker_channels))
        with torch.inference_mode(False):  # a session that is made in inference mode may be used outside it
            self.setup(state)

    @classmethod
    def obstacle(cls, plan: GenerationPlan, batch: int) -> str | None:
        """Why this engine cannot run a plan on the device of its tensors, in a few words; None if it can.

        The engine ``auto`` skips engines that have an obstacle.
        """
        return None

    @classmethod
    def is_trusted(cls, plan: GenerationPlan, batch: int, precision: str) -> bool:
        """Whether this engine is known to compute its definition on this machine; asked before it is used."""
        return True

    def sample(self, uniforms: Tensor, condition: Tensor | None = None) -> Tensor:
        """Draws the next samples: float64 uniforms ``(batch, time)`` in [0, 1) to int64 codes ``(batch, time)``.

        ``condition`` ``(batch, condition channels, time)`` holds the features of these samples.
        """
        shape = (self.batch, self.plan.condition_channels, uniforms.shape[1])
        return self.advance(uniforms, self._check_conditioning("condition", condition, shape), None)

    def score(self, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        """Teacher forcing: the distribution parameters ``(batch, parameters, time)`` of codes ``(batch, time)``.

        The streams continue as if these codes had been drawn.
        """
        shape = (self.batch, self.plan.condition_channels, codes.shape[1])
        return self.advance(None, self._check_conditioning("condition", condition, shape), codes)

    def replace_last(self, codes: Tensor) -> None:
        """Continues as if the last code of each stream had been one of ``codes`` ``(batch,)``, for a decoder.

        A decoder calls :meth:`score` with any code to get the parameters from which it reads the right one.
        """
        raise WavedilError(f"the engine {type(self).__name__} cannot decode: use engine='torch' or 'numba'")

    def state(self) -> State:
        """The streaming state after the last sample; a session of any engine, or the model's ``step``, continues it."""
        state = self.current_state()
        if self.guidance == 1:
            return state
        guided = {key: value[: self.batch] for key, value in state.items()}
        return guided | add_prefix(UNGUIDED, {key: value[self.batch :] for key, value in state.items()})

    def setup(self, state: State) -> None:
        """Prepares the weights and copies the state; called once, with all attributes set.

        ``state`` has ``rows`` rows: ``batch``, or with guidance ``2 * batch``, the unconditioned copies last.

        Raises:
            WavedilError: if the engine cannot run the plan.
        """
        raise NotImplementedError

    def advance(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> Tensor:
        """Codes ``(batch, time)`` drawn with the uniforms; with forced codes, parameters as :meth:`score` returns.

        Exactly one of ``uniforms`` and ``forced``, each ``(batch, time)``, is given. ``condition`` has ``rows`` rows.
        """
        raise NotImplementedError

    def current_state(self) -> State:
        """The state now, with ``rows`` rows, in tensors that later steps do not change."""
        raise NotImplementedError

    def _check_guidance(self) -> None:
        if not self.plan.condition_channels and not self.plan.speaker_channels:
            raise WavedilError(f"guidance is {self.guidance}, but the model has no conditioning: leave it out")
        if not self.supports_guidance:
            raise WavedilError(f"guidance is {self.guidance}: this engine has none; use engine='torch' or 'numba'")

    def _check_conditioning(self, name: str, value: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
        """The value on the plan's device; with guidance, zeros for the unconditioned copies are appended."""
        if shape[1] == 0:
            if value is not None:
                raise WavedilError(f"{name} is given, but the model takes none: leave it out")
            return None
        if value is None or tuple(value.shape) != shape:
            found = "none" if value is None else f"of shape {tuple(value.shape)}"
            raise WavedilError(f"{name} is {found}: this model expects {shape}")
        value = value.to(self.plan.device)
        return value if self.guidance == 1 else torch.cat([value, torch.zeros_like(value)])
