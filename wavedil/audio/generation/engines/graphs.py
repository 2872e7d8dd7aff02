"""The graphs engine: one step of the torch reference as a CUDA graph, replayed for each sample.

For what the triton engine has no kernel for. The arithmetic is the reference's, in float64; a replay costs the GPU's
time for some hundred small kernels and no Python in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from wavedil.audio.distributions.categorical import Categorical
from wavedil.audio.generation.engines.reference import TorchSession
from wavedil.audio.generation.plan import GenerationPlan
from wavedil.core.stream import State
from wavedil.errors import WavedilError

CHUNK = 256  # samples between two exchanges of a graph's buffers


class _Ring:
    """The last inputs of a layer at places that are counted on the device, so that a captured step finds them."""

    def __init__(self, history: Tensor, time: Tensor):
        # (span, batch, channels), oldest first at time 0
        self.slots = history.double().permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
        self.time = time

    def back(self, steps: int) -> Tensor:
        return self.slots.index_select(0, (self.time - steps) % len(self.slots))[0]

    def push(self, x: Tensor) -> None:
        if len(self.slots):
            self.slots.index_copy_(0, self.time % len(self.slots), x.unsqueeze(0))

    def history(self) -> Tensor:
        oldest = int(self.time) % len(self.slots) if len(self.slots) else 0
        return self.slots.roll(-oldest, 0).permute(1, 2, 0).contiguous()


class GraphSession(TorchSession):
    """The torch engine's session with a step that is captured once."""

    supports_guidance = False

    @classmethod
    def supports(cls, plan: GenerationPlan, batch: int) -> bool:
        return plan.device.type == "cuda"

    def _open(self, state: State) -> None:
        super()._open(state)
        plan, batch, device = self.plan, self.batch, self.plan.device
        self.time = torch.zeros(1, dtype=torch.int64, device=device)
        histories = (state[f"stack.layers.{i}.conv.history"] for i in range(len(plan.layers)))
        self.rings = [_Ring(history.to(device), self.time) for history in histories]
        self.recent = [code.to(device, copy=True) for code in self.recent]
        self.place = torch.zeros(1, dtype=torch.int64, device=device)  # in the buffers
        self.uniforms = torch.zeros(CHUNK, batch, dtype=torch.float64, device=device)
        self.codes = torch.zeros(CHUNK, batch, dtype=torch.int64, device=device)
        self.features = torch.zeros(CHUNK, batch, plan.condition_channels, device=device)
        shape = (CHUNK, batch, plan.distribution.num_parameters)
        self.parameters = torch.zeros(shape, dtype=torch.float64, device=device)
        self.replays: dict[bool, Callable[[], None]] = {}

    @torch.no_grad()
    def _run(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> Tensor:
        kind = forced is not None
        given, into, out = (forced, self.codes, self.parameters) if kind else (uniforms, self.uniforms, self.codes)
        if kind not in self.replays:
            self.replays[kind] = self._replay(kind)
        parts = [out[:0]]
        for start in range(0, given.shape[1], CHUNK):
            part = given[:, start : start + CHUNK]
            steps = part.shape[1]
            into[:steps] = part.T
            if condition is not None:
                self.features[:steps] = condition[..., start : start + CHUNK].permute(2, 0, 1)
            self.place.zero_()
            for _ in range(steps):
                self.replays[kind]()
            parts.append(out[:steps].clone())
        return torch.cat(parts).movedim(0, -1)

    def _predict(self) -> None:
        features = self.features.index_select(0, self.place)[0] if self.plan.condition_channels else None
        self.parameters.index_copy_(0, self.place, self._step(features).unsqueeze(0))

    def _draw(self) -> None:
        parameters, uniforms = (held.index_select(0, self.place)[0] for held in (self.parameters, self.uniforms))
        code = self.plan.distribution.sample(parameters, uniforms, self.sampling)
        self.codes.index_copy_(0, self.place, code.unsqueeze(0))
        self._advance(code)

    def _predict_and_draw(self) -> None:
        self._predict()
        self._draw()

    def _predict_and_follow(self) -> None:
        self._predict()
        self._advance(self.codes.index_select(0, self.place)[0])

    def _advance(self, code: Tensor) -> None:
        for older, newer in zip(self.recent, [*self.recent[1:], code], strict=True):
            older.copy_(newer)
        self.time.add_(1)
        self.place.add_(1)

    def _replay(self, forced: bool) -> Callable[[], None]:
        """What takes the streams one sample further."""
        if forced:
            return self._captured(self._predict_and_follow)
        if type(self.plan.distribution) is Categorical:
            return self._captured(self._predict_and_draw)
        # Other distributions may look at their numbers, for which a graph cannot wait: they draw outside of it.
        predict = self._captured(self._predict)

        def replay() -> None:
            predict()
            self._draw()

        return replay

    def _captured(self, step: Callable[[], None]) -> Callable[[], None]:
        """What replays a step."""
        device = self.plan.device
        if device.type != "cuda":
            raise WavedilError(f"the model is on {device}: engine graphs needs a CUDA device; use engine='auto'")
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        with torch.cuda.device(device), self._unchanged():
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(2):  # what libraries set up at first use must not be captured
                    step()
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(graph):
                step()
        return graph.replay

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Steps inside leave no trace."""
        copies = [buffer.clone() for buffer in self._buffers()]
        yield
        for buffer, copy in zip(self._buffers(), copies, strict=True):
            buffer.copy_(copy)

    def _buffers(self) -> list[Tensor]:
        """What a step writes to."""
        return [self.time, self.place, self.codes, self.parameters, *self.recent, *(r.slots for r in self.rings)]
