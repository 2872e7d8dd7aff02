"""The numba engine: compiled loops for CPUs, one stream or many."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.generation.engines.cpu.drawing import KINDS
from wavedil.audio.generation.engines.session import Session
from wavedil.audio.generation.plan import GenerationPlan
from wavedil.core.stream import State
from wavedil.errors import WavedilError

#: Rows (steps of a block x streams) up to which the past is multiplied ahead: more would leave the cache.
_ROWS = 16


class NumbaSession(Session):
    """Streams on one thread, or on two: then a single stream is shared between them, a batch divided."""

    precisions = ("fp32", "bf16")
    supports_guidance = True
    max_threads = 2

    @classmethod
    def supports(cls, plan: GenerationPlan, batch: int) -> bool:
        try:
            there = find_spec("numba") is not None
        except ModuleNotFoundError:
            there = False
        return there and plan.device.type == "cpu" and len(plan.head) == 2 and type(plan.distribution) in KINDS

    def _open(self, state: State) -> None:
        if self.plan.device.type != "cpu":
            raise WavedilError(f"engine numba runs on the CPU, the model is on {self.plan.device}: use triton or torch")
        if not self.supports(self.plan, self.batch):
            raise WavedilError("the numba engine cannot run this model here (is numba installed?): use engine torch")
        groups = np.array_split(np.arange(self.batch), min(self.threads, self.batch))
        self._groups = [_Group(self, state, streams) for streams in groups]
        self._pool = ThreadPoolExecutor(self.threads, "wavedil-sampling") if self.threads > 1 else None
        self._compiled = False

    def _run(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> Tensor:
        if self._pool is not None and not self._compiled:
            # Here, before another thread could wait for one that is still to be compiled.
            for job in self._jobs(*(None if x is None else x[..., :0] for x in (uniforms, condition, forced))):
                job()
            self._compiled = True
        jobs = self._jobs(uniforms, condition, forced)
        others = [self._pool.submit(job) for job in jobs[1:]]
        try:
            jobs[0]()
            for other in others:
                other.result()
        except BaseException:
            for group in self._groups:
                group.release()
            raise
        return torch.cat([group.result() for group in self._groups])

    def _jobs(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> list[Callable]:
        return [job for group in self._groups for job in group.jobs(uniforms, condition, forced)]

    def _state(self) -> State:
        # Of each group the rows with conditioning, then those without, as in the whole.
        copies = self.rows // self.batch
        states = [{key: value.chunk(copies) for key, value in group.state().items()} for group in self._groups]
        return {key: torch.cat([state[key][copy] for copy in range(copies) for state in states]) for key in states[0]}


class _Group:
    """Some streams of a session, in the memory of one thread, or of two that share one stream.

    ``rows`` are those of the session that it carries; with guidance, those without conditioning after the others.
    """

    def __init__(self, session: NumbaSession, state: State, streams: np.ndarray):
        from wavedil.audio.generation.engines.cpu.packing import gate_bias, pack

        plan = session.plan
        guided = session.guidance != 1
        self.plan, self.streams, self.time = plan, streams, 0
        self.rows = np.concatenate([streams, streams + session.batch]) if guided else streams
        self.batch = len(self.rows)
        self.pieces = 2 if self.batch == 1 and session.threads == 2 and session.batch == 1 else 1
        block = max(1, _ROWS // self.batch)
        self.size, self.packed = pack(plan, session.precision, self.batch, self.pieces, block)
        speaker = None if session.speaker is None else session.speaker[self.rows]
        self.bias = gate_bias(plan, self.size, speaker)
        sampling = session.sampling
        top_p = 1.0 if sampling.top_p is None else float(sampling.top_p)
        self.settings = float(sampling.temperature), int(sampling.top_k or 0), top_p, float(session.guidance)
        shared = self._shared()
        own = {key: value[self.rows] for key, value in state.items()}
        self.buffers = [self._buffers(own, shared) for _ in range(self.pieces)]

    def jobs(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> list[Callable]:
        """What to call, each on a thread of its own, for the next steps."""
        from wavedil.audio.generation.engines.cpu.loop import run
        from wavedil.audio.generation.engines.cpu.packing import stored_rows

        shape = steps, num = (uniforms if forced is None else forced).shape[1], len(self.streams)
        drawn = np.zeros(shape, np.float64) if uniforms is None else _turned(uniforms[self.streams])
        codes = np.zeros(shape, np.int64) if forced is None else _turned(forced[self.streams])
        features = torch.zeros(steps, self.batch, 0) if condition is None else condition[self.rows].permute(2, 0, 1)
        rows = stored_rows(features, self.packed)
        parameters = np.zeros((steps if forced is not None else 0, num, self.size.num_parameters), np.float32)
        self._codes, self._parameters = codes, parameters if forced is not None else None
        time = self.time
        self.time += steps

        def job(half: int):
            own = codes if half == 0 else codes.copy()
            written = parameters if half == 0 else parameters.copy()
            return lambda: run(
                self.size, self.packed, self.buffers[half], self.bias, rows, drawn, own, forced is not None, written,
                self.settings, time, half, 3 - self.pieces,
            )  # fmt: skip

        return [job(half) for half in range(self.pieces)]

    def release(self) -> None:
        """Lets the second half's thread go on where the first will not come. The streams are of no use then."""
        self.buffers[0].flags[0] = 2**62  # not the second's own, from which it counts on

    def result(self) -> Tensor:
        """Codes ``(batch, time)``, or the parameters ``(batch, parameters, time)`` of forced ones."""
        if self._parameters is not None:
            return torch.from_numpy(self._parameters).permute(1, 2, 0).contiguous()
        return torch.from_numpy(self._codes.T.copy())

    def state(self) -> State:
        from wavedil.audio.generation.engines.cpu.packing import unpacked_rows

        buffers, state = self.buffers[0], {}
        recent = torch.from_numpy(buffers.recent.copy())
        state["previous"], state["input_embedding.history"] = recent[:, -1:].clone(), recent[:, :-1].clone()
        for index, layer in enumerate(self.plan.layers):
            ring, slots = self.packed.layers[index, 2:4]
            order = (self.time - layer.span + np.arange(layer.span)) % slots  # oldest first
            rows = unpacked_rows(buffers.rings[ring + order], self.plan.channels)
            state[f"stack.layers.{index}.conv.history"] = torch.from_numpy(rows).permute(1, 2, 0).contiguous()
        return state

    def _shared(self) -> dict[str, np.ndarray]:
        widest = max(self.size.channels, self.size.skip, self.size.outputs)
        widest = -(-widest // 16) * 16  # each thread's sums on cache lines of their own
        return {"sums": _aligned((2, 2, self.batch, widest)), "flags": _aligned((2, 8), np.int64)}

    def _buffers(self, state: State, shared: dict[str, np.ndarray]):
        from wavedil.audio.generation.engines.cpu.loop import Buffers
        from wavedil.audio.generation.engines.cpu.packing import stored_rows

        size, units = self.size, self.packed.units.dtype
        per = 2 if units == np.uint32 else 1  # numbers in a unit
        rings = _aligned((int(self.packed.layers[:, 3].sum()), self.batch, size.channels // per), units)
        for index, layer in enumerate(self.plan.layers):
            ring, slots = self.packed.layers[index, 2:4]
            history = state[f"stack.layers.{index}.conv.history"].permute(2, 0, 1)
            rows = stored_rows(history, self.packed)
            rings[ring + (np.arange(layer.span) - layer.span) % slots, :, : rows.shape[2]] = rows
        recent = torch.cat([state["input_embedding.history"], state["previous"]], dim=1)
        blocks = int(self.packed.layers[:, 4].sum())
        return Buffers(
            rings=rings,
            recent=recent.numpy().copy(),
            x=_aligned((self.batch, size.channels)),
            ahead=_aligned((blocks * self.batch, 4 * size.hidden)),
            z=_aligned((max(size.hidden, size.head, size.skip),)),
            gates=_aligned((2, self.batch, size.layers * size.hidden // per), units),
            y=_aligned((self.batch, size.skip // per), units),
            wide=_aligned((self.batch, 2 * size.head)),
            hidden=_aligned((2, self.batch, size.head // per), units),
            logits=_aligned((self.batch, size.outputs)),
            scratch=_aligned((2, size.num_parameters)),
            **shared,
        )


def _turned(values: Tensor) -> np.ndarray:
    """``(batch, time)`` to ``(time, batch)``."""
    return np.ascontiguousarray(values.numpy().T)


def _aligned(shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
    """Zeros from the start of a cache line on."""
    count = int(np.prod(shape))
    room = np.zeros(count * np.dtype(dtype).itemsize + 64, np.uint8)
    skip = -room.ctypes.data % 64
    return room[skip : skip + count * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
