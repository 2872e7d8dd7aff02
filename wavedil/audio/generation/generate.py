"""Generation of sound: ``generate`` returns clips, ``stream`` yields chunks without end. Both run on any engine."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.audio.conditioning.conditioner import Conditioning, Speaker
from wavedil.audio.data.levels import check_level
from wavedil.audio.distributions.base import Sampling, Temperature, TopK, TopP
from wavedil.audio.generation.engines import choose, session_class
from wavedil.audio.generation.engines.session import Guidance, Threads
from wavedil.audio.generation.plan import CONDITION_POSITION, LAST_SOUND, PREVIOUS, RANDOM, UNGUIDED, GenerationPlan
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.audio.models.wavenet import WaveNet
from wavedil.core import stream as streaming
from wavedil.core.schema import Range, checked
from wavedil.core.stream import State
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, shown, with_article
from wavedil.ops.memory import check_memory

_log = logging.getLogger("wavedil")
PRIME_CHUNK = 2**16  # samples of a prime per parallel pass, to bound memory
CHUNK = 1024  # steps between two calls of progress; the result does not depend on it
SAMPLES = 2**16  # most samples of all streams between two calls, so that Ctrl-C takes effect soon

Count = Annotated[int, Range(1, 2**62)]  # of streams or samples; the memory limits them


class Stream(Iterator[Tensor]):
    """Endless iterator over chunks of sound, returned by :func:`stream`.

    Attributes:
        engine, precision: name of the engine, and precision of its products.
        position: number of samples generated so far; with a condition, the samples of the prime are included.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        num: Count | None = None,
        seed: int | None = None,
        first: int = 0,
        temperature: Temperature = 1.0,
        top_k: TopK | None = None,
        top_p: TopP | None = None,
        prime: Tensor | np.ndarray | None = None,
        condition: Tensor | np.ndarray | None = None,
        speaker: Speaker | None = None,
        guidance: Guidance = 1.0,
        state: Mapping[str, Tensor] | None = None,
        engine: str = "auto",
        precision: str = "fp32",
        threads: Threads = 1,
        chunk: Count = CHUNK,
    ):
        if not hasattr(model, "plan"):
            raise WavedilError(f"model is {with_article(model)}, which does not generate sound: expected a WaveNet")
        if state is not None and prime is not None:
            raise WavedilError("prime is given, and state, which has a past already: leave one of them out")
        plan, sampling = model.plan(), Sampling(temperature, top_k, top_p)
        if state is not None:
            shape = state[PREVIOUS].shape if PREVIOUS in state else (num or 1,)
            streams = shape[0] if shape else 1
            if num not in (None, streams):
                raise WavedilError(f"num is {num}, but the state has {streams} streams: leave num out")
            num, state = streams, _checked_state(state, plan, streams)
        num = 1 if num is None else num
        condition = None if condition is None else to_tensor("condition", condition)
        needed = num * _bytes_per_stream(plan, guidance, condition)
        check_memory(needed, f"num is {num}", "generate fewer streams at a time", plan.device)
        self.model, self.num, self.chunk, self.position = model, num, chunk, 0
        self._uniforms = (
            Uniforms(seed or 0, num, first) if state is None or seed is not None else Uniforms.from_state(state)
        )
        if state is not None and CONDITION_POSITION in state:
            self.position = int(state.pop(CONDITION_POSITION)[0])
        self._last: Tensor | None = None if state is None else state.pop(LAST_SOUND, None)
        self.conditioning = model.conditioning(condition, speaker, num)
        if prime is not None:
            prime = _checked_prime(prime, num)
        with torch.no_grad():
            if state is None:
                state = model.start(num) if prime is None else _prime(model, prime, num, self.conditioning)
                if prime is not None and guidance != 1:  # the unconditioned copies of the streams have another past
                    unguided = _prime(model, prime, num, self.conditioning.unconditional())
                    state |= streaming.add_prefix(UNGUIDED, unguided)
        if prime is not None:
            last = model.decode_step(model.encode(prime[:, 0]))[1]
            self._last = None if last is None else last.expand(num)
        if prime is not None and self.conditioning.samples is not None:
            self.position = prime.shape[2]  # the condition covers the prime too
        self.conditioning.check(self.position + 1)  # at least one sample is left to generate
        self.engine, self.precision = choose(engine, plan, num, guidance, precision), precision
        _log.debug("%d stream(s) by the engine %s in %s", num, self.engine, precision)
        self._options = {"precision": precision, "threads": threads, "guidance": guidance}
        speaker = self.conditioning.speaker
        self._session = session_class(self.engine)(plan, state, sampling, speaker, **self._options)
        self._interrupted, self._process = False, os.getpid()

    def __next__(self) -> Tensor:
        """The next chunk: float32 ``(num, 1, chunk)`` in [-1, 1]. The last chunk of a condition may be shorter."""
        time, total = self.chunk, self.conditioning.samples
        if total is not None:
            time = min(time, total - self.position)
            if time == 0:
                raise StopIteration
        return self.next_sound(time).unsqueeze(1)

    def next_sound(self, time: int) -> Tensor:
        """The next samples, float32 ``(num, time)`` in [-1, 1]."""
        self._check_not_interrupted()
        self._interrupted = True  # until the chunk is finished
        if self._process != os.getpid():  # after a fork, torch would wait forever for threads of the parent
            torch.set_num_threads(1)
            self._process = os.getpid()
        uniforms = self._uniforms.draw(time).to(self._session.plan.device)
        condition = self.conditioning.upsampled_features(self.position, self.position + time)
        self.position += time
        codes = self._session.sample(uniforms, condition)
        if bool((codes < 0).any()):
            raise WavedilError("the model's numbers overflow: its weights are too large; use an earlier checkpoint")
        sound, self._last = self.model.decode_step(codes, self._last)
        self._interrupted = False
        return sound

    def state(self) -> State:
        """Everything that the next chunk depends on, except model and condition: a dict of tensors, batch first.

        Save it with safetensors, continue it in another process or engine with ``stream(model, state=…)``, or branch it
        with ``wavedil.core.stream.select``. Pass the complete condition again when you continue: the state has the
        position in it as ``condition.position``. Without that key the condition begins at the next sample.
        """
        self._check_not_interrupted()
        state = self._session.state() | self._uniforms.state()
        if self.conditioning.samples is not None:
            state[CONDITION_POSITION] = torch.full((len(state[PREVIOUS]),), self.position)
        if self._last is not None:
            state[LAST_SOUND] = self._last.clone()
        return state

    def _check_not_interrupted(self) -> None:
        if self._interrupted:
            raise WavedilError("this stream was interrupted within a chunk: start again from a state before it")

    def keep_streams(self, streams: list[int]) -> None:
        """Continues with some streams of the batch and drops the others."""
        state = streaming.select(self._session.state(), streams)
        self._uniforms = self._uniforms.select(streams)
        self._last = None if self._last is None else self._last[streams]
        self.conditioning = self.conditioning.select(streams)
        session = self._session
        self._session = type(session)(session.plan, state, session.sampling, self.conditioning.speaker, **self._options)


def stream(model: WaveNet, **options: Any) -> Stream:
    """Generates audio without end: an iterator over float32 ``(num, 1, chunk)``, in constant memory and time per chunk.

    The chunks, concatenated, equal what :func:`generate` returns. Takes the options of :func:`generate`, and:

    Args:
        chunk: samples per chunk.
        state: the result of ``Stream.state()``, from this or another process, to continue from. The random numbers are
            those that would have come next, or those of ``seed`` if it is set.
    """
    source = Stream(model, **options)
    _check_sound(source, source.num * source.chunk, f"chunk is {source.chunk}", "use shorter chunks or fewer streams")
    return source


@checked
def generate(
    model: nn.Module,
    samples: Count | Sequence[Count] | None = None,
    *,
    num: Count | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Tensor | list[Tensor]:
    """Generates audio: float32 ``(num, 1, samples)`` in [-1, 1]; ``model.encode`` quantizes it to the generated codes.

    The codes equal those of a teacher-forced pass with the same random numbers.

    Args:
        model: a :class:`WaveNet`. Its current weights are used, with weight normalization, on its device.
        samples: length of the streams in samples; or a list with one length per stream, and then the result is a list
            of ``(1, samples)``. None: the length of the condition.
        num: number of streams, generated together. Default: 1, or the number of lengths.
        seed: of the random numbers; stream i depends on ``seed`` and i alone.
        first: number of the first stream: ``generate(num=2, first=3)`` returns streams 3 and 4.
        temperature, top_k, top_p: see :class:`wavedil.audio.distributions.categorical.Sampling`.
        prime: audio ``(1 or num, 1, time)`` in [-1, 1] that the streams continue. It is not part of the result. A
            condition must cover the prime, followed by the result.
        condition, speaker: the conditioning; see ``WaveNet.conditioning``.
        guidance: scale of classifier-free guidance: above 1 strengthens the effect of condition and speaker, 0 ignores
            them. For models trained with ``drop_condition``; see :class:`wavedil.audio.generation.engines.Session`.
        engine: ``"torch"``, ``"graphs"``, ``"numba"``, ``"triton"``, one added by ``register_engine``, or ``"auto"``:
            the fastest for this model, device and batch.
        precision: of weights and of the inputs of products: ``"fp32"``, or ``"bf16"`` or ``"int8"`` if the engine has
            it. See :mod:`wavedil.audio.generation.engines.rounded`.
        threads: number of threads of the engine.
        progress: called with (finished, total) steps after every 1024 steps or fewer. On Ctrl-C the samples that it has
            reported are returned; before its first call KeyboardInterrupt is raised.

    Raises:
        WavedilError: for lengths below 1, values out of range, a condition that does not fit, or NaN weights.
    """
    lengths = list(samples) if isinstance(samples, Sequence) else [samples]
    is_list = isinstance(samples, Sequence)
    if not lengths:
        raise WavedilError("samples is empty: expected a number of samples, or one per stream")
    if "chunk" in options:
        raise WavedilError("chunk is given, but generate returns everything at once: leave it out, or use stream")
    source = Stream(model, num=len(lengths) if is_list and num is None and "state" not in options else num, **options)
    num = source.num
    if is_list and num != len(lengths):
        raise WavedilError(f"samples has {len(lengths)} lengths for {num} streams: expected one for each")
    limit = source.conditioning.samples
    limit = None if limit is None else limit - source.position
    total = limit if samples is None else max(lengths)
    if total is None:
        raise WavedilError("samples is not given, and there is no condition that sets the length: pass a length")
    source.conditioning.check(source.position + total)
    lengths = lengths if is_list else [total] * num
    text = f"samples is {total} for {num} stream{'s' * (num > 1)}"
    _check_sound(source, sum(lengths), text, "generate fewer or shorter clips, or take chunks from stream")
    chunks: list[tuple[list[int], Tensor]] = []  # the streams still running, and a chunk of sound for each of them
    running, done = list(range(num)), 0
    try:
        while running:
            time = min(CHUNK, max(1, SAMPLES // len(running)), min(lengths[i] for i in running) - done)
            chunk = source.next_sound(time)
            chunks.append((running, chunk))  # one statement, so that Ctrl-C leaves all streams equally long
            done += time
            rows = [row for row, index in enumerate(running) if lengths[index] > done]
            if rows and len(rows) < len(running):
                source.keep_streams(rows)
            running = [running[row] for row in rows]
            if progress is not None:
                progress(done, total)
    except KeyboardInterrupt:
        if not chunks:
            raise
    clips = []
    for index in range(num):
        parts = [chunk[streams.index(index)] for streams, chunk in chunks if index in streams]
        clips.append(torch.cat(parts).unsqueeze(0))
    return clips if is_list else torch.stack(clips)


def _checked_state(state: Mapping[str, Tensor], plan: GenerationPlan, num: int) -> State:
    """A copy of a user's state on the model's device; raises WavedilError if it is not a state of this model."""
    expected, num_codes = plan.state_template(num), plan.input_embedding.num_codes
    if any(key.startswith(f"{UNGUIDED}.") for key in state):
        expected |= streaming.add_prefix(UNGUIDED, expected)
    if LAST_SOUND in state:  # its absence means zero
        expected[LAST_SOUND] = torch.empty(num, dtype=torch.float64, device="meta")
    counters = [CONDITION_POSITION, *(f"{RANDOM}.{name}" for name in ("seed", "number", "position"))]
    expected |= {key: torch.empty(num, dtype=torch.int64, device="meta") for key in counters if key in state}
    known = {}
    for key, template in expected.items():
        shape = tuple(state[key].shape) if key in state else "missing"
        if shape != tuple(template.shape) or num == 0:
            raise WavedilError(
                f"state has {key} {shape}: expected {tuple(template.shape)}; pass what Stream.state() of this model "
                "returned"
            )
        values = to_tensor(f"{key} of state", state[key], template.is_floating_point()).detach().to(plan.device)
        if template.is_floating_point():
            if not bool(torch.isfinite(values).all()):
                raise WavedilError(f"state has NaN or infinity in {key}: start again, or use an earlier state")
        elif key not in counters:
            # In the input history, num_codes stands for "no code yet".
            largest = num_codes - 1 if key.endswith(PREVIOUS) else num_codes
            if bool(((values < 0) | (values > largest)).any()):
                raise WavedilError(f"state has {key} beyond the {num_codes} codes of this model: it is another model's")
        known[key] = values if template.is_floating_point() else values.to(torch.int64)
    positions = known.get(CONDITION_POSITION, torch.zeros(1))
    if bool(((positions != positions[0]) | (positions < 0)).any()):
        found = shown(positions.tolist())
        raise WavedilError(f"state has {CONDITION_POSITION} {found}: expected the same for all streams, 0 or more")
    return known


def _checked_prime(prime: Tensor | np.ndarray, num: int) -> Tensor:
    """The recording as a tensor; raises WavedilError unless it is sound ``(1 or num, 1, time)``."""
    prime = to_tensor("prime", prime).detach()
    if prime.ndim != 3 or prime.shape[1] != 1 or prime.shape[0] not in (1, num) or prime.shape[2] == 0:
        raise WavedilError(f"prime has shape {tuple(prime.shape)}: expected (1 or {num}, 1, time), time >= 1")
    if not bool(torch.isfinite(prime).all()):
        raise WavedilError("prime has NaN or infinity: repair the recording")
    return check_level(prime, "prime")


def _bytes_per_stream(plan: GenerationPlan, guidance: float, condition: Tensor | None) -> int:
    """Memory of one stream: its state, of which there are three copies in float64 at the start, and its condition."""
    copies = 3 if guidance == 1 else 6
    state = sum(value.numel() for value in plan.state_template(1).values())
    frames = 0 if condition is None or condition.ndim == 0 else condition.numel() // max(1, len(condition))
    return 8 * (copies * state + 2 * frames) + 2048  # and the generator of its random numbers


def _check_sound(source: Stream, samples: int, what: str, remedy: str) -> None:
    """Raises WavedilError if there is no memory for the sound of all streams, its codes and the copies of both."""
    check_memory(24 * samples, what, remedy, source._session.plan.device)


def _prime(model: WaveNet, prime: Tensor, num: int, conditioning: Conditioning) -> State:
    """The state after a recording, computed in parallel over time."""
    conditioning.check(prime.shape[2])
    rows = model.encode(prime[:, 0].to(next(model.parameters()).device))
    if len(rows) < num and (conditioning.samples is not None or conditioning.speaker is not None):
        rows = rows.expand(num, -1)
    # One recording at a time: in a batch, float32 rounding would depend on the other recordings.
    states = []
    for index, row in enumerate(rows):
        row_conditioning, state = conditioning.select([index]), model.start(1)
        for start in range(0, len(row), PRIME_CHUNK):
            chunk = row[start : start + PRIME_CHUNK]
            condition = row_conditioning.condition(start, start + len(chunk))
            condition = None if condition is None else condition.to(next(model.parameters()).dtype)
            _, state = model.step(chunk.unsqueeze(0), state, condition)
        states.append(state)
    if len(states) == 1:
        return streaming.select(states[0], [0] * num)
    return {key: torch.cat([state[key] for state in states]) for key in states[0]}
