"""The torch engine: the definition of sampling from a plan. Any device, any distribution, one step at a time.

It computes in float64. In float32 the rounding of a matrix product depends on the number of rows, so a uniform that
falls close to the boundary of a code would pick another code in another batch, and the stream would differ from there
on. In float64 such a uniform would have to fall some 1e9 times closer.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wavedil.audio.generation.engines.session import Session
from wavedil.audio.generation.plan import AmplitudeEmbeddingPlan, CodeEmbeddingPlan, make_state, read_state
from wavedil.core.stream import State


class RingBuffer:
    """The last ``span`` inputs of a layer, written in place: a step costs the same at any dilation.

    ``history`` is ``(batch, channels, span)``, oldest first; it is copied.
    """

    def __init__(self, history: Tensor):
        # (span, batch, channels), oldest first at time 0
        self.slots = history.double().permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
        self.time: int | Tensor = 0

    def get(self, steps: int) -> Tensor:
        """The input ``steps`` steps before the one that is pushed next, ``(batch, channels)``."""
        return self.slots[(self.time - steps) % len(self.slots)]

    def push(self, x: Tensor) -> None:
        """Overwrites the oldest input."""
        if len(self.slots):
            self.slots[self.time % len(self.slots)] = x
            self.time += 1

    def history(self) -> Tensor:
        """The inputs ``(batch, channels, span)``, oldest first."""
        oldest = int(self.time) % len(self.slots) if len(self.slots) else 0
        return self.slots.roll(-oldest, 0).permute(1, 2, 0).contiguous()


class TorchSession(Session):
    """Sampling step by step in plain torch."""

    supports_guidance = True

    def setup(self, state: State) -> None:
        # Weights of products are (inputs, outputs); the inputs of a layer are those of all taps, oldest first.
        plan = self.plan = self.plan.map_tensors(Tensor.double)
        self.weights = [layer.weight.permute(0, 2, 1).flatten(0, 1).contiguous() for layer in plan.layers]
        self.residuals = [None if layer.residual is None else layer.residual.T.contiguous() for layer in plan.layers]
        self.skip = plan.skip_weight.T.contiguous()
        self.head = plan.head if callable(plan.head) else [(w.T.contiguous(), b) for w, b in plan.head]
        self.embed = _embedding(plan.input_embedding)
        codes, histories = read_state(state, len(plan.layers))
        self.rings = [RingBuffer(history) for history in histories]
        self.recent = list(codes.unbind(1))
        if plan.condition_channels or plan.speaker_channels:
            self.conditions = [layer.condition.T.contiguous() for layer in plan.layers]

    @torch.no_grad()
    def advance(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> Tensor:
        steps = (uniforms if forced is None else forced).shape[1]
        parameters, codes = [], []
        for t in range(steps):
            y = self._predict(None if condition is None else condition[..., t])
            if forced is None:
                code = self.plan.distribution.sample(self._guide(y), uniforms[:, t], self.sampling)
                codes.append(code)
            else:
                code = forced[:, t]
                parameters.append(self._guide(y))
            self.recent = [*self.recent[1:], code.repeat(len(y) // len(code))]
        return torch.stack(codes, 1) if forced is None else torch.stack(parameters, 2)

    def replace_last(self, codes: Tensor) -> None:
        self.recent[-1] = codes.repeat(self.rows // self.batch)

    def _guide(self, y: Tensor) -> Tensor:
        """The parameters ``(batch, parameters)`` to draw from, given the parameters of all rows."""
        if self.guidance == 1:
            return y
        guided, unguided = y.chunk(2)
        return unguided + self.guidance * (guided - unguided)

    def _predict(self, features: Tensor | None) -> Tensor:
        """Parameters ``(rows, parameters)`` of the next sample's distribution; the layers' inputs are pushed."""
        plan, hidden = self.plan, self.plan.hidden
        x = self.embed(self.recent)
        features = None if features is None else self.rounded(features)
        condition = [part for part in (features, self.speaker) if part is not None]
        condition = torch.cat(condition, 1).double() if condition else None
        gates = torch.empty(len(x), hidden * len(plan.layers), device=plan.device, dtype=torch.float64)
        for index, (layer, ring) in enumerate(zip(plan.layers, self.rings, strict=True)):
            now = self.rounded(x)
            inputs = torch.cat([*(ring.get(delay) for delay in layer.delays[:-1]), now], dim=1)
            h = torch.addmm(layer.bias, inputs, self.weights[index])
            if condition is not None:
                h = torch.addmm(h, condition, self.conditions[index])
            ring.push(now)
            z = gates[:, index * hidden : (index + 1) * hidden]
            torch.mul(h[:, :hidden].tanh_(), h[:, hidden:].sigmoid_(), out=z)
            z.copy_(self.rounded_gates(z))
            if layer.residual is not None:
                x = torch.addmm(layer.residual_bias, z, self.residuals[index]).add_(x)
            if plan.residual_scale != 1:
                x = x * plan.residual_scale
        y = torch.addmm(plan.skip_bias, gates, self.skip)
        if callable(self.head):
            return self.head(y.unsqueeze(2)).squeeze(2)
        rounding = [self.rounded] * (len(self.head) - 1) + [self.rounded_hidden]
        for rounded, (weight, bias) in zip(rounding, self.head, strict=True):
            y = torch.addmm(bias, rounded(y.relu_()), weight)
        return y

    def rounded(self, x: Tensor) -> Tensor:
        """Rows of inputs of products; :class:`~wavedil.audio.generation.engines.rounded.RoundedSession` rounds them."""
        return x

    def rounded_gates(self, z: Tensor) -> Tensor:
        """The gates as inputs of products."""
        return z

    def rounded_hidden(self, x: Tensor) -> Tensor:
        """The inputs of the head's last product."""
        return x

    def current_state(self) -> State:
        return make_state(torch.stack(self.recent, 1), [ring.history() for ring in self.rings])


def _embedding(plan: CodeEmbeddingPlan | AmplitudeEmbeddingPlan) -> Callable[[Sequence[Tensor]], Tensor]:
    """A function from recent codes, oldest first, each ``(rows,)``, to the stack's input ``(rows, channels)``."""
    if isinstance(plan, CodeEmbeddingPlan):
        tables = torch.nn.functional.pad(plan.tables, (0, 0, 0, 1))  # zeros for "no code yet"
        return lambda recent: sum(table[code] for table, code in zip(tables, recent, strict=True))
    levels = torch.nn.functional.pad(plan.levels, (0, 1))  # amplitude 0 for "no code yet"
    return lambda recent: (
        plan.bias + sum(weight * levels[code].unsqueeze(1) for weight, code in zip(plan.weight, recent, strict=True))
    )
