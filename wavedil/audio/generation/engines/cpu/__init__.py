"""The numba engine: compiled loops for CPUs, for one stream or many."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from wavedil.audio.generation.engines.cpu.layout import BLOCK, RING, SLOTS, StreamBuffers
from wavedil.audio.generation.engines.cpu.specs import SUPPORTED
from wavedil.audio.generation.engines.session import Session
from wavedil.audio.generation.plan import GenerationPlan, make_state, read_state
from wavedil.core.stream import State
from wavedil.errors import WavedilError

#: Most rows (steps of a block x streams) of a product with past inputs: the results of more would not fit the cache.
_ROWS = 16


class NumbaSession(Session):
    """Streams on one thread, or on two: these share a single stream, or each runs one part of a batch."""

    precisions = ("fp32", "bf16", "int8")
    supports_guidance = True
    max_threads = 2

    @classmethod
    def obstacle(cls, plan: GenerationPlan, batch: int) -> str | None:
        if plan.device.type != "cpu":
            return f"the model is on {plan.device}, not on the CPU"
        if plan.unusual_head:
            return f"no support for {plan.unusual_head}"
        if type(plan.distribution) not in SUPPORTED:
            known = ", ".join(kind.__name__ for kind in SUPPORTED)
            return f"the distribution is {type(plan.distribution).__name__}, not one of {known}"
        try:
            installed = find_spec("numba") is not None
        except ModuleNotFoundError:
            installed = False
        return None if installed else "numba is not installed"

    @classmethod
    def is_trusted(cls, plan: GenerationPlan, batch: int, precision: str) -> bool:
        from wavedil.audio.generation.engines.cpu import agreement

        return agreement.is_trusted(plan.distribution, precision, batch)

    def setup(self, state: State) -> None:
        obstacle = self.obstacle(self.plan, self.batch)
        if obstacle is not None:
            raise WavedilError(f"engine numba cannot run this model, since {obstacle}: use engine='torch'")
        groups = np.array_split(np.arange(self.batch), min(self.threads, self.batch))
        self._groups = [_StreamGroup(self, state, streams) for streams in groups]
        self._compiled = self.threads == 1
        self._pool, self._process = None, None

    def advance(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> Tensor:
        if not self._compiled:
            # With zero steps: else one thread could wait at a barrier while the other still compiles.
            for job in self._jobs(*(None if x is None else x[..., :0] for x in (uniforms, condition, forced))):
                job()
            self._compiled = True
        jobs = self._jobs(uniforms, condition, forced)
        if len(jobs) > 1 and self._process != os.getpid():  # threads do not survive a fork
            self._pool, self._process = ThreadPoolExecutor(self.threads, "wavedil-sampling"), os.getpid()
        others = [self._pool.submit(job) for job in jobs[1:]]
        try:
            jobs[0]()
            for other in others:
                other.result()
        except BaseException:
            for group in self._groups:
                group.release_second_thread()
            raise
        return torch.cat([group.result() for group in self._groups])

    def _jobs(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> list[Callable]:
        return [job for group in self._groups for job in group.jobs(uniforms, condition, forced)]

    def replace_last(self, codes: Tensor) -> None:
        for group in self._groups:
            for buffers in group.buffers:  # rows of a group are streams, and with guidance the same streams again
                buffers.recent[:, -1] = codes.numpy()[group.rows % self.batch]

    def current_state(self) -> State:
        # Each group has its guided rows first; the result has the guided rows of all groups first.
        copies = self.rows // self.batch
        states = [{key: value.chunk(copies) for key, value in group.state().items()} for group in self._groups]
        return {key: torch.cat([state[key][copy] for copy in range(copies) for state in states]) for key in states[0]}


class _StreamGroup:
    """Some streams of a session, with the memory of one thread, or of two threads that share one stream.

    ``rows`` are the group's rows of the session; with guidance, the unconditioned copies last.
    """

    def __init__(self, session: NumbaSession, state: State, streams: np.ndarray):
        from wavedil.audio.generation.engines.cpu import formats, loop, packing

        self._loop, self._packing = loop, packing  # they import numba
        plan = session.plan
        guided = session.guidance != 1
        self.plan, self.streams, self.time = plan, streams, 0
        self.rows = np.concatenate([streams, streams + session.batch]) if guided else streams
        self.batch = len(self.rows)
        self.threads = 2 if self.batch == 1 and session.threads == 2 and session.batch == 1 else 1
        longest_block = max(1, _ROWS // self.batch)
        self.format = formats.choose_format(session.precision, self.batch)
        self.widths, self.weights = packing.pack(plan, self.format, self.threads, longest_block)
        speaker = None if session.speaker is None else session.speaker[self.rows]
        self.bias = packing.gate_bias(plan, self.widths, speaker)
        sampling = session.sampling
        top_p = 1.0 if sampling.top_p is None else float(sampling.top_p)
        self.settings = float(sampling.temperature), int(sampling.top_k or 0), top_p, float(session.guidance)
        codes, histories = read_state({key: value[self.rows] for key, value in state.items()}, len(plan.layers))
        shared = self._shared_buffers()
        self.buffers = [self._buffers(codes, histories, shared) for _ in range(self.threads)]

    def jobs(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> list[Callable]:
        """Functions that compute the next steps; each is to be called on a separate thread."""
        shape = steps, num = (uniforms if forced is None else forced).shape[1], len(self.streams)
        draws = np.zeros(shape, np.float64) if uniforms is None else _time_first(uniforms[self.streams])
        codes = np.zeros(shape, np.int64) if forced is None else _time_first(forced[self.streams])
        features = torch.zeros(steps, self.batch, 0) if condition is None else condition[self.rows].permute(2, 0, 1)
        features = self._packing.to_words(features, self.format, self.widths.condition)
        parameters = np.zeros((steps if forced is not None else 0, num, self.widths.num_parameters), np.float32)
        self._codes, self._parameters = codes, parameters if forced is not None else None
        time = self.time
        self.time += steps

        def job(half: int) -> Callable[[], None]:
            # Both threads of a stream draw the same codes, each into separate arrays.
            own_codes = codes if half == 0 else codes.copy()
            own_parameters = parameters if half == 0 else parameters.copy()
            return lambda: self._loop.sample_steps(
                self.widths, self.weights, self.buffers[half], self.bias, features, draws, own_codes,
                forced is not None, own_parameters, self.settings, time, half, 3 - self.threads,
            )  # fmt: skip

        return [job(half) for half in range(self.threads)]

    def release_second_thread(self) -> None:
        """Ends the second thread's wait for the first, which was interrupted. The streams cannot be continued then."""
        self.buffers[0].flags[0] = 2**62  # the first thread's flag only: the second continues to count from its flag

    def result(self) -> Tensor:
        """Codes ``(batch, time)``; with forced codes, parameters ``(batch, parameters, time)``."""
        if self._parameters is not None:
            return torch.from_numpy(self._parameters).permute(1, 2, 0).contiguous()
        return torch.from_numpy(self._codes.T.copy())

    def state(self) -> State:
        buffers, histories = self.buffers[0], []
        for row, layer in zip(self.weights.layers, self.plan.layers, strict=True):
            oldest_first = (self.time - layer.span + np.arange(layer.span)) % row[SLOTS]
            inputs = self.format.values(buffers.rings[row[RING] + oldest_first])[..., : self.plan.channels]
            histories.append(torch.from_numpy(inputs).permute(1, 2, 0).contiguous())
        return make_state(torch.from_numpy(buffers.recent), histories)

    def _shared_buffers(self) -> dict[str, np.ndarray]:
        """The buffers that two threads of one stream have in common."""
        widest = max(self.widths.channels, self.widths.skip, self.widths.outputs)
        widest = -(-widest // 16) * 16  # so that the threads write to different cache lines
        return {"sums": _aligned_zeros((2, 2, self.batch, widest)), "flags": _aligned_zeros((2, 8), np.int64)}

    def _buffers(self, codes: Tensor, histories: Sequence[Tensor], shared: dict[str, np.ndarray]) -> StreamBuffers:
        widths, layers, words, dtype = self.widths, self.weights.layers, self.format.words, self.format.dtype
        rings = _aligned_zeros((int(layers[:, SLOTS].sum()), self.batch, words(widths.channels)), dtype)
        for row, layer, history in zip(layers, self.plan.layers, histories, strict=True):
            slots = (np.arange(layer.span) - layer.span) % row[SLOTS]
            rings[row[RING] + slots] = self._packing.to_words(history.permute(2, 0, 1), self.format, widths.channels)
        gates = words(widths.layers * widths.hidden) - self.format.scales  # their scale is constant
        blocks = int(layers[:, BLOCK].sum())
        return StreamBuffers(
            rings=rings,
            recent=codes.numpy().copy(),
            x=_aligned_zeros((self.batch, widths.channels)),
            gate_inputs=_aligned_zeros((blocks * self.batch, 4 * widths.hidden)),
            row=_aligned_zeros((max(widths.hidden, widths.head, widths.skip),)),
            gates=_aligned_zeros((2, self.batch, gates), dtype),
            skips=_aligned_zeros((self.batch, words(widths.skip)), dtype),
            head_inputs=_aligned_zeros((self.batch, 2 * widths.head)),
            hidden=_aligned_zeros((2, self.batch, words(widths.head)), dtype),
            logits=_aligned_zeros((self.batch, widths.outputs)),
            scratch=_aligned_zeros((2, widths.num_parameters)),
            **shared,
        )


def _time_first(values: Tensor) -> np.ndarray:
    """``(batch, time)`` to ``(time, batch)``."""
    return np.ascontiguousarray(values.numpy().T)


def _aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
    """An array of zeros that begins at a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 64, np.uint8)
    skip = -memory.ctypes.data % 64
    return memory[skip : skip + size].view(dtype).reshape(shape)
