"""Generation: two doors, `generate` and `stream`, over all engines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from wavedil.audio.conditioning.conditioner import Conditioning
from wavedil.audio.distributions.categorical import Sampling
from wavedil.audio.generation.engines import choose, session_class
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.audio.models.wavenet import WaveNet
from wavedil.core import stream as streaming
from wavedil.core.stream import State
from wavedil.errors import WavedilError

_log = logging.getLogger("wavedil")
PRIME_CHUNK = 2**16  # samples of a recording taken in one pass
POSITION = "condition.position"  # in a state: of the next sample in its condition
CHUNK = 1024  # steps between two looks at the clock; the random numbers and results do not depend on it
SAMPLES = 2**16  # of all streams between two looks, at most: so that an interrupt does not wait


class Stream(Iterator[Tensor]):
    """Sound without end, chunk by chunk: what :func:`stream` returns.

    ``engine`` and ``precision`` say what runs it. ``position`` is the number of samples made so far.
    """

    def __init__(
        self,
        model: WaveNet,
        *,
        num: int | None = None,
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        prime: Tensor | None = None,
        condition: Tensor | None = None,
        speaker: Tensor | str | int | Sequence[str | int] | None = None,
        guidance: float = 1.0,
        state: Mapping[str, Tensor] | None = None,
        engine: str = "auto",
        precision: str = "fp32",
        threads: int = 1,
        chunk: int = CHUNK,
    ):
        if not hasattr(model, "plan"):
            raise WavedilError(f"a {type(model).__name__} makes no sound of its own: expected a WaveNet")
        if not isinstance(chunk, int) or chunk < 1:
            raise WavedilError(f"chunk is {chunk!r}: expected a positive number of samples")
        if state is not None and prime is not None:
            raise WavedilError("both prime and state are given: a state has its past already; keep one of them")
        if num is not None and (not isinstance(num, int) or isinstance(num, bool) or num < 1):
            raise WavedilError(f"num is {num!r}: expected a positive number of streams")
        if state is not None:
            streams = len(state["previous"]) if "previous" in state else num or 1
            if num not in (None, streams):
                raise WavedilError(f"num is {num}, and the state has {streams} streams: leave num out")
            num, state = streams, _checked(model, state, streams)
        num = 1 if num is None else num
        self.model, self.num, self.chunk, self.position = model, num, chunk, 0
        plan = model.plan()
        self._uniforms = Uniforms.of(state) if state is not None and seed is None else Uniforms(seed or 0, num)
        if state is not None and POSITION in state:
            self.position = int(state.pop(POSITION)[0])
        self.conditioning = model.conditioning(condition, speaker, num)
        if prime is not None:
            prime = torch.as_tensor(prime)
        with torch.no_grad():
            if state is None:
                state = model.start(num) if prime is None else _primed(model, prime, num, self.conditioning)
                if prime is not None and guidance != 1:  # the stream without conditioning has a past of its own
                    state |= streaming.named("unguided", _primed(model, prime, num, self.conditioning.unconditional()))
        if prime is not None and self.conditioning.samples is not None:
            self.position = prime.shape[2]  # the condition covers the recording, too
        self.conditioning.check(self.position + 1)  # something is left to make
        self.engine = choose(engine, plan, num, guidance, precision)
        self.precision, self._whole = precision, True
        _log.debug("%d stream(s) by the engine %s in %s", num, self.engine, precision)
        self._options = {"precision": precision, "threads": threads, "guidance": guidance}
        sampling = Sampling(temperature, top_k, top_p)
        speaker = self.conditioning.speaker
        self._session = session_class(self.engine)(plan, state, sampling, speaker, **self._options)

    def __next__(self) -> Tensor:
        """The next float32 ``(num, 1, chunk)`` in [-1, 1]; shorter where the condition ends, then no more."""
        time, total = self.chunk, self.conditioning.samples
        if total is not None:
            time = min(time, total - self.position)
            if time == 0:
                raise StopIteration
        return self.model.decode(self.next_codes(time)).unsqueeze(1)

    def next_codes(self, time: int) -> Tensor:
        """The next ``(num, time)`` codes."""
        self._check_whole()
        self._whole = False
        uniforms = self._uniforms.draw(time).to(self._session.plan.device)
        condition = self.conditioning.upsampled_features(self.position, self.position + time)
        self.position += time
        codes = self._session.run(uniforms, condition)
        if bool((codes < 0).any()):
            raise WavedilError("the model's numbers overflow: its weights are too large; use an earlier checkpoint")
        self._whole = True
        return codes

    def state(self) -> State:
        """Everything that the next chunk depends on (but for model and condition), as a dict of tensors, batch first.

        Save it with safetensors, go on from it in another process or engine by ``stream(model, state=…)``, branch it
        with ``wavedil.core.stream.select``. The condition is to be given again, the same and whole: the state knows how
        far in it the stream is (without ``condition.position``, one that begins here is meant).
        """
        self._check_whole()
        state = self._session.state() | self._uniforms.state()
        if self.conditioning.samples is not None:
            state[POSITION] = torch.full((len(state["previous"]),), self.position)
        return state

    def _check_whole(self) -> None:
        if not self._whole:
            raise WavedilError("this stream was interrupted within a chunk: go on from a state before it")

    def keep(self, streams: list[int]) -> None:
        """Goes on with some streams of the batch only."""
        state = streaming.select(self._session.state(), streams)
        self._uniforms = self._uniforms.select(streams)
        self.conditioning = self.conditioning.select(streams)
        session = self._session
        self._session = type(session)(session.plan, state, session.sampling, self.conditioning.speaker, **self._options)


def stream(model: WaveNet, **options) -> Stream:
    """Endless sound: an iterator over float32 ``(num, 1, chunk)``, in constant memory and time per chunk.

    The chunks, joined, are what :func:`generate` returns. Options are those of :func:`generate`, and

    Args:
        chunk: samples in each chunk.
        state: what ``Stream.state()`` gave, here or in another process: goes on from there, with the random numbers
            that would have come next, or with those of a ``seed`` where one is given.
    """
    return Stream(model, **options)


def generate(
    model: WaveNet,
    samples: int | Sequence[int] | None = None,
    *,
    num: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options,
) -> Tensor | list[Tensor]:
    """Samples sound from a model: float32 ``(num, 1, samples)`` in [-1, 1]; ``model.encode`` gives the codes.

    Each layer and step costs the same whatever the dilation; the codes are those of the teacher-forced pass with the
    same random numbers.

    Args:
        model: a :class:`WaveNet`; its device and current weights are used, weight norm included.
        samples: length of the streams, in samples; or one length for each, and then the result is a list of
            ``(1, samples)``. None: as long as the condition.
        num: number of streams, made together; default 1, or as many as there are lengths.
        seed: of the random numbers; stream i depends on ``seed`` and i alone.
        temperature, top_k, top_p: see :class:`wavedil.audio.distributions.categorical.Sampling`.
        prime: sound ``(1 or num, 1, time)`` in [-1, 1] that the streams continue; it is not part of the result. A
            condition then covers the recording and what follows it.
        condition, speaker: what the model is conditioned on; see ``WaveNet.conditioning``.
        guidance: above 1 exaggerates what the condition and the speaker change, 0 leaves them out; for models that were
            trained with ``drop_condition``; see :class:`wavedil.audio.generation.engines.Session`.
        engine: ``"torch"``, ``"graphs"``, ``"numba"``, ``"triton"``, or ``"auto"``: the fastest for
            this model, device and batch.
        precision: of the weights: ``"fp32"``, or ``"bf16"`` where the engine has it.
        threads: for the engine.
        progress: called with (finished, all) steps after each 1024 or fewer. On an interrupt (Ctrl-C) what it told of
            is returned; before the first call the interrupt is raised.

    Raises:
        WavedilError: for lengths below 1, numbers out of range, conditions that do not fit, NaN weights.
    """
    lengths = list(samples) if isinstance(samples, Sequence) else [samples]
    each = isinstance(samples, Sequence)
    if samples is not None and not (lengths and all(isinstance(length, int) and length >= 1 for length in lengths)):
        raise WavedilError(f"samples is {samples!r}: expected a positive number of samples to make, or one per stream")
    if "chunk" in options:
        raise WavedilError("chunk is given, but generate returns all at once: leave it out, or use stream")
    source = Stream(model, num=len(lengths) if each and num is None and "state" not in options else num, **options)
    num = source.num
    if each and num != len(lengths):
        raise WavedilError(f"samples has {len(lengths)} lengths for {num} streams: expected one for each")
    limit = source.conditioning.samples
    limit = None if limit is None else limit - source.position
    total = limit if samples is None else max(lengths)
    if total is None:
        raise WavedilError("samples is not given, and no condition says how long the sound is: give a length")
    source.conditioning.check(source.position + total)
    lengths = lengths if each else [total] * num
    parts: list[tuple[list[int], Tensor]] = []  # streams, and codes of each
    running, made = list(range(num)), 0
    try:
        while running:
            most = min(CHUNK, max(1, SAMPLES // len(running)))
            time = min(most, min(lengths[i] for i in running) - made)
            codes = source.next_codes(time)
            parts.append((running, codes))  # in one go: an interrupt leaves all streams as long as each other
            made += time
            left = [row for row, index in enumerate(running) if lengths[index] > made]
            if left and len(left) < len(running):
                source.keep(left)  # those that are done make no more work
            running = [running[row] for row in left]
            if progress is not None:
                progress(made, total)
    except KeyboardInterrupt:
        if not parts:
            raise
    of = [[codes[streams.index(i)] for streams, codes in parts if i in streams] for i in range(num)]
    sounds = [model.decode(torch.cat(own)).unsqueeze(0) for own in of]
    return sounds if each else torch.stack(sounds)


def _checked(model: WaveNet, state: Mapping[str, Tensor], num: int) -> State:
    """A copy of a user's state, on the model's device, which must be one of this model."""
    with torch.no_grad():
        expected = model.start(num)
    if any(key.startswith("unguided.") for key in state):
        expected |= streaming.named("unguided", expected)
    for key, value in expected.items():
        found = tuple(state[key].shape) if key in state else "missing"
        if found != tuple(value.shape):
            raise WavedilError(
                f"state has {key} {found}: expected {tuple(value.shape)}; pass what Stream.state() of this model gave"
            )
        # In the front's history the number of codes stands for what is before the start.
        own, most = state[key], model.num_codes - 1 if key.endswith("previous") else model.num_codes
        if value.is_floating_point():
            if not bool(torch.isfinite(own).all()):
                raise WavedilError(f"state has NaN or infinity in {key}: start again, or go on from an earlier one")
        elif own.is_floating_point() or bool(((own < 0) | (own > most)).any()):
            raise WavedilError(
                f"state has {key} beyond the {model.num_codes} codes of this model: it is another model's"
            )
    positions = state.get(POSITION, torch.zeros(1))
    if bool((positions != positions[0]).any()):
        raise WavedilError(f"{POSITION} is {positions.tolist()}: expected streams that are as far as each other")
    return streaming.to(state, next(model.parameters()).device)


def _primed(model: WaveNet, prime: Tensor, num: int, conditioning: Conditioning) -> State:
    """The state after a recording: one parallel pass fills every layer's history."""
    if prime.ndim != 3 or prime.shape[1] != 1 or prime.shape[0] not in (1, num) or prime.shape[2] == 0:
        raise WavedilError(
            f"prime has shape {tuple(prime.shape)}: expected (1 or {num}, 1, time) with at least one sample"
        )
    conditioning.check(prime.shape[2])
    rows = model.encode(prime[:, 0].to(next(model.parameters()).device))
    if len(rows) < num and (conditioning.samples is not None or conditioning.speaker is not None):
        rows = rows.expand(num, -1)
    # One recording at a time: in a batch the rounding of float32 would depend on the other recordings.
    states = []
    for index, row in enumerate(rows):
        own, state = conditioning.select([index]), model.start(1)
        for start in range(0, len(row), PRIME_CHUNK):
            chunk = row[start : start + PRIME_CHUNK]
            condition = own.condition(start, start + len(chunk))
            condition = None if condition is None else condition.to(next(model.parameters()).dtype)
            _, state = model.step(chunk.unsqueeze(0), state, condition)
        states.append(state)
    if len(states) == 1:
        return streaming.select(states[0], [0] * num)
    return {key: torch.cat([state[key] for state in states]) for key in states[0]}
