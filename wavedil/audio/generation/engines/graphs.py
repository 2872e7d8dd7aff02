"""The graphs engine: one step of the torch engine as a CUDA graph, replayed for each sample.

It runs the plans that the triton engine has no kernel for. The arithmetic is the torch engine's, in float64. A replay
takes the GPU's time for some hundred small kernels, without Python in between.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wavedil.audio.distributions.categorical import Categorical
from wavedil.audio.generation.engines.reference import RingBuffer, TorchSession
from wavedil.audio.generation.plan import GenerationPlan, read_state
from wavedil.core.stream import State
from wavedil.errors import WavedilError

CHUNK = 256  # samples that the graph's input and output buffers hold


class _DeviceRingBuffer(RingBuffer):
    """A ring buffer whose time is a counter on the device, so that a captured step finds its slots."""

    def __init__(self, history: Tensor, time: Tensor):
        super().__init__(history)
        self.time = time

    def get(self, steps: int) -> Tensor:
        return self.slots.index_select(0, (self.time - steps) % len(self.slots))[0]

    def push(self, x: Tensor) -> None:
        if len(self.slots):
            self.slots.index_copy_(0, self.time % len(self.slots), x.unsqueeze(0))


class GraphSession(TorchSession):
    """The torch engine with its step captured once."""

    supports_guidance = False

    @classmethod
    def obstacle(cls, plan: GenerationPlan, batch: int) -> str | None:
        if plan.device.type != "cuda":
            return f"the model is on {plan.device}, not on a CUDA device"
        return f"no support for {plan.unusual_head}" if isinstance(plan.head, nn.Module) else None

    def setup(self, state: State) -> None:
        super().setup(state)
        plan, batch, device = self.plan, self.batch, self.plan.device
        self.time = torch.zeros(1, dtype=torch.int64, device=device)
        _, histories = read_state(state, len(plan.layers))
        self.rings = [_DeviceRingBuffer(history.to(device), self.time) for history in histories]
        self.recent = [code.to(device, copy=True) for code in self.recent]
        self.column = torch.zeros(1, dtype=torch.int64, device=device)  # the step's place in the buffers below
        self.uniforms = torch.zeros(CHUNK, batch, dtype=torch.float64, device=device)
        self.codes = torch.zeros(CHUNK, batch, dtype=torch.int64, device=device)
        self.features = torch.zeros(CHUNK, batch, plan.condition_channels, device=device)
        shape = (CHUNK, batch, plan.distribution.num_parameters)
        self.parameters = torch.zeros(shape, dtype=torch.float64, device=device)
        self.replays: dict[bool, Callable[[], None]] = {}  # forced -> a step

    @torch.no_grad()
    def advance(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> Tensor:
        is_forced = forced is not None
        if is_forced:
            inputs, input_buffer, output_buffer = forced, self.codes, self.parameters
        else:
            inputs, input_buffer, output_buffer = uniforms, self.uniforms, self.codes
        if is_forced not in self.replays:
            self.replays[is_forced] = self._make_step(is_forced)
        outputs = [output_buffer[:0]]
        for start in range(0, inputs.shape[1], CHUNK):
            chunk = inputs[:, start : start + CHUNK]
            steps = chunk.shape[1]
            input_buffer[:steps] = chunk.T
            if condition is not None:
                self.features[:steps] = condition[..., start : start + CHUNK].permute(2, 0, 1)
            self.column.zero_()
            for _ in range(steps):
                self.replays[is_forced]()
            outputs.append(output_buffer[:steps].clone())
        return torch.cat(outputs).movedim(0, -1)

    def _predict_step(self) -> None:
        features = self.features.index_select(0, self.column)[0] if self.plan.condition_channels else None
        self.parameters.index_copy_(0, self.column, self._predict(features).unsqueeze(0))

    def _draw_step(self) -> None:
        parameters, uniforms = (each.index_select(0, self.column)[0] for each in (self.parameters, self.uniforms))
        code = self.plan.distribution.sample(parameters, uniforms, self.sampling)
        self.codes.index_copy_(0, self.column, code.unsqueeze(0))
        self._append(code)

    def _predict_and_draw(self) -> None:
        self._predict_step()
        self._draw_step()

    def _predict_and_force(self) -> None:
        self._predict_step()
        self._append(self.codes.index_select(0, self.column)[0])

    def _append(self, code: Tensor) -> None:
        """Makes a code the last one and moves on to the next sample."""
        for older, newer in zip(self.recent, [*self.recent[1:], code], strict=True):
            older.copy_(newer)
        self.time.add_(1)
        self.column.add_(1)

    def _make_step(self, forced: bool) -> Callable[[], None]:
        """A function that advances all streams by one sample."""
        if forced:
            return self._capture(self._predict_and_force)
        if type(self.plan.distribution) is Categorical:
            return self._capture(self._predict_and_draw)
        # Other distributions may read numbers back to the host, which a graph cannot: they draw outside of it.
        predict = self._capture(self._predict_step)

        def step() -> None:
            predict()
            self._draw_step()

        return step

    def _capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Captures a step as a CUDA graph and returns the function that replays it."""
        device = self.plan.device
        if device.type != "cuda":
            raise WavedilError(f"the model is on {device}: engine graphs needs a CUDA device; use engine='auto'")
        graph, side_stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        with torch.cuda.device(device), self._restored():
            side_stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side_stream):
                for _ in range(2):  # libraries initialize on first use, which must not be captured
                    step()
            torch.cuda.current_stream().wait_stream(side_stream)
            with torch.cuda.graph(graph):
                step()
        return graph.replay

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """Restores all buffers after steps that are run only to warm up and to capture."""
        copies = [buffer.clone() for buffer in self._buffers()]
        yield
        for buffer, copy in zip(self._buffers(), copies, strict=True):
            buffer.copy_(copy)

    def _buffers(self) -> list[Tensor]:
        """The tensors that a step writes to."""
        return [self.time, self.column, self.codes, self.parameters, *self.recent, *(ring.slots for ring in self.rings)]
