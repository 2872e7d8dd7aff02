"""The triton engine: many samples in one launch, 16 streams to a program, for categorical outputs on a CUDA device.

A program reads every weight once per sample for its 16 streams; see ``triton_kernels.py``.
Sums are float32, in an order that no batch changes, so a stream is the same in any batch. ``precision="bf16"`` rounds
weights and the inputs of products, past ones included, to bfloat16.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from shutil import which
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from wavedil.audio.distributions.categorical import Categorical
from wavedil.audio.generation.engines.session import Session
from wavedil.audio.generation.plan import CodeEmbeddingPlan, GenerationPlan
from wavedil.core.stream import State
from wavedil.errors import WavedilError

TILE = 16  # streams of a program
WARPS = 8
BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Tiling:
    """The kernel's constants: padded widths, and what one pass of its loop takes of them.

    A pass multiplies ``BLOCK`` hidden channels of a layer while the weights of the next ``STAGES - 1`` are on their
    way to shared memory.
    """

    C: int
    H: int
    S: int
    E: int
    Q: int
    F: int
    BLOCK: int
    HEAD_BLOCK: int
    STAGES: int

    @classmethod
    def of(cls, plan: GenerationPlan, precision: str, shared: int) -> Tiling | None:
        """The tiling for a device with so many bytes of shared memory per program; None where none fits."""
        (head, _), (out, _) = plan.head
        skip = len(plan.skip_bias)
        widths = [_pad(n) for n in (plan.channels, plan.hidden, skip, len(head), len(out))]
        features = _pad(plan.condition_channels) if plan.condition_channels else 0
        taps = len(plan.layers[0].weight)
        for stages in (3, 2, 1):
            for block in (64, 32, 16):
                tiling = cls(*widths, features, min(block, widths[1]), min(32, widths[3]), stages)
                if tiling.fits(taps, precision, shared):
                    return tiling
        return None

    def fits(self, taps: int, precision: str, shared: int) -> bool:
        """Whether registers and shared memory hold it: an upper bound of what the compiler was seen to take."""
        products = 2 * (taps * self.C + self.F)
        if precision == "fp32" and products * self.BLOCK > 24576:
            return False  # without tensor cores the operands lie in registers, and more of them spill
        layer = (products + self.C + self.S) * self.BLOCK + (taps - 1) * TILE * self.C
        head = (self.S + self.Q) * self.HEAD_BLOCK
        operands = TILE * max(self.C + self.F + self.BLOCK, self.S + self.HEAD_BLOCK)
        buffers = max(self.STAGES - 1, 1)
        loops = max(buffers * layer, buffers * head) * BYTES[precision] + buffers * 8 * TILE * self.BLOCK
        return max(loops + operands * 4, TILE * self.Q * 8) + 4096 <= shared


class TritonSession(Session):
    """Sampling by one kernel. Plans with a categorical output and a head of two products."""

    precisions = ("fp32", "bf16")

    @classmethod
    def supports(cls, plan: GenerationPlan, batch: int) -> bool:
        if plan.device.type != "cuda" or _obstacle(plan) is not None:
            return False
        if find_spec("triton") is None or _compiler() is None:
            return False
        return torch.cuda.get_device_capability(plan.device) >= (8, 0) and all(
            Tiling.of(plan, precision, _shared_memory(plan.device)) for precision in cls.precisions
        )

    def _open(self, state: State) -> None:
        plan, obstacle = self.plan, _obstacle(self.plan)
        if obstacle is not None:
            raise WavedilError(f"the plan has {obstacle}: the triton engine has no such thing; use engine='auto'")
        self.kernels = _kernels(plan.device)
        shared = _shared_memory(plan.device)
        tiling = Tiling.of(plan, self.precision, shared)
        if tiling is None:
            raise WavedilError(
                f"the model has {plan.channels} channels and {len(plan.skip_bias)} skip channels: too wide for the "
                f"{shared} bytes of shared memory of this GPU; use engine='graphs'"
            )
        self.tiling = tiling
        self.dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.streams = -(-self.batch // TILE) * TILE
        self.weights = _packed(plan, tiling, self.dtype, self._biases())
        self.sizes = torch.tensor([layer.span + 1 for layer in plan.layers], dtype=torch.int32, device=plan.device)
        self._load(state)

    def _biases(self) -> Tensor:
        """(layers, streams or 1, 2, H): a speaker is a bias of its own for each stream."""
        plan, tiling = self.plan, self.tiling
        biases = torch.stack([layer.bias for layer in plan.layers]).double().unsqueeze(1)
        if self.speaker is not None:
            own = torch.stack([layer.condition[:, plan.condition_channels :] for layer in plan.layers]).double()
            biases = biases + self.speaker.double() @ own.transpose(1, 2)
            biases = F.pad(biases, (0, 0, 0, self.streams - self.batch))
        return _padded(biases.unflatten(2, (2, plan.hidden)).float(), *biases.shape[:2], 2, tiling.H)

    def _load(self, state: State) -> None:
        """Rings from histories: slot 0 is the next input's, the others are the past, oldest first."""
        plan, tiling = self.plan, self.tiling
        tiles, slots = self.streams // TILE, int(self.sizes.sum())
        self.rings = torch.zeros(tiles, slots, TILE, tiling.C, dtype=self.dtype, device=plan.device)
        first = (self.sizes.cumsum(0, dtype=torch.int32) - self.sizes).tolist()
        for index, (start, layer) in enumerate(zip(first, plan.layers, strict=True)):
            history = state[f"stack.layers.{index}.conv.history"].permute(2, 0, 1)  # (span, batch, channels)
            history = _padded(history, layer.span, self.streams, tiling.C).to(plan.device)
            past = self.rings[:, start + 1 : start + 1 + layer.span]
            past.copy_(history.unflatten(1, (tiles, TILE)).transpose(0, 1))
        columns = [[layer.dilation for layer in plan.layers], first, [0] * len(first)]
        self.schedule = torch.tensor(columns, dtype=torch.int32, device=plan.device).T.contiguous()
        recent = torch.cat([state["input_embedding.history"], state["previous"]], 1).T.int()
        self.recent = _padded(recent, len(recent), self.streams).to(plan.device)  # (front taps, streams)

    @torch.no_grad()
    def _run(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> Tensor:
        given = uniforms if forced is None else forced
        if forced is not None and forced.numel() and not 0 <= int(forced.min()) <= int(forced.max()) < self._codes:
            raise WavedilError(
                f"codes reach from {int(forced.min())} to {int(forced.max())}: expected 0 to {self._codes - 1}"
            )
        # So many steps that 32 bits address every element.
        widest = max(self.tiling.Q if forced is not None else 1, self.tiling.F)
        most = max(1, (2**31 - 1) // (self.streams * widest) - len(self.recent))
        parts = []
        for start in range(0, max(given.shape[1], 1), most):
            part = slice(start, start + most)
            parts.append(
                self._launch(given[:, part], None if condition is None else condition[..., part], forced is not None)
            )
        return torch.cat(parts, -1)

    def _launch(self, given: Tensor, condition: Tensor | None, forced: bool) -> Tensor:
        plan, tiling, sampling, device = self.plan, self.tiling, self.sampling, self.plan.device
        steps, taps = given.shape[1], len(self.recent)
        codes = torch.zeros(taps + steps, self.streams, dtype=torch.int32, device=device)
        codes[:taps] = self.recent
        nothing = torch.empty(0, device=device)
        uniforms = parameters = features = nothing
        if forced:
            codes[taps:, : self.batch] = given.T
            parameters = torch.empty(steps, self.streams, tiling.Q, device=device)
        else:
            uniforms = _padded(given.T.to(device, torch.float64), steps, self.streams)
        if condition is not None:
            features = _padded(condition.permute(2, 0, 1), steps, self.streams, tiling.F).to(self.dtype)
        front = plan.input_embedding
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            self.kernels.advance[(self.streams // TILE,)](
                codes,
                uniforms,
                features,
                parameters,
                self.rings,
                self.schedule,
                **self.weights,
                steps=steps,
                streams=self.streams,
                slots=self.rings.shape[1],
                residual_scale=plan.residual_scale,
                # Below this all the weight is the likeliest code's anyway, and float32 would divide by zero.
                temperature=max(sampling.temperature, 1e-30),
                top_k=sampling.top_k or 0,
                top_p=sampling.top_p or 1.0,
                LAYERS=len(plan.layers),
                INPUT_TAPS=taps,
                ROWS=front.num_codes + 1,
                SCALAR=not isinstance(front, CodeEmbeddingPlan),
                TAPS=len(plan.layers[0].weight),
                OWN_BIAS=self.speaker is not None,
                FORCED=forced,
                GREEDY=sampling.temperature == 0,
                CUT_K=sampling.top_k is not None and sampling.top_k < self._codes,
                CUT_P=sampling.top_p is not None and sampling.top_p < 1,
                **vars(tiling),
                num_warps=WARPS,
                num_stages=tiling.STAGES,
            )
        self.recent = codes[steps:]
        self.schedule[:, 2] = (self.schedule[:, 2] + steps) % self.sizes
        if forced:
            return parameters[:, : self.batch, : self._codes].permute(1, 2, 0)
        return codes[taps:, : self.batch].T.long()

    @property
    def _codes(self) -> int:
        return self.plan.distribution.num_parameters

    def _state(self) -> State:
        recent = self.recent[:, : self.batch].T.long()
        state = {"previous": recent[:, -1:].clone(), "input_embedding.history": recent[:, :-1].clone()}
        for index, (layer, (_, first, now)) in enumerate(zip(self.plan.layers, self.schedule.tolist(), strict=True)):
            ring = self.rings[:, first : first + layer.span + 1].roll(-now, 1)[:, 1:]  # oldest first
            history = ring.transpose(0, 1).flatten(1, 2)[:, : self.batch, : self.plan.channels]
            state[f"stack.layers.{index}.conv.history"] = history.permute(1, 2, 0).float().contiguous()
        return state


def _obstacle(plan: GenerationPlan) -> str | None:
    """What the kernel cannot do of a plan."""
    if type(plan.distribution) is not Categorical:
        return f"a {type(plan.distribution).__name__} output"
    if len(plan.head) != 2:
        return f"a head of {len(plan.head)} products instead of 2"
    kernel_sizes = {len(layer.weight) for layer in plan.layers}
    if len(kernel_sizes) > 1:
        return f"layers of different kernel sizes, {sorted(kernel_sizes)}"
    return None


def _kernels(device: torch.device) -> ModuleType:
    """The module of kernels, where it can run on a device."""
    there = find_spec("triton") is not None
    kernels = import_module("wavedil.audio.generation.engines.triton_kernels") if there else None
    if device.type != "cuda" and (kernels is None or kernels.COMPILED):
        raise WavedilError(f"the model is on {device}: the triton engine needs a CUDA device; use engine='auto'")
    if kernels is None:
        raise WavedilError("the triton engine needs the package triton: pip install triton, or take engine='graphs'")
    if kernels.COMPILED and _compiler() is None:
        raise WavedilError("the triton engine needs a C compiler: install gcc or set CC, or take engine='graphs'")
    return kernels


def _compiler() -> str | None:
    """The C compiler with which triton builds the code that launches kernels."""
    return os.environ.get("CC") or which("gcc") or which("clang")


def _shared_memory(device: torch.device) -> int:
    """Bytes that one program may have."""
    if device.type != "cuda":
        return 227 * 1024  # under the interpreter: as an H100
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def _packed(plan: GenerationPlan, tiling: Tiling, dtype: torch.dtype, biases: Tensor) -> dict[str, Tensor]:
    """The kernel's weights by the names of its arguments, which say the order; padded with zeros."""
    depth, hidden, C, H, S, E, Q = len(plan.layers), plan.hidden, *list(vars(tiling).values())[:5]
    blocks = (H // tiling.BLOCK, tiling.BLOCK)

    def halves(values: Tensor, inputs: int) -> Tensor:
        """(…, 2 * hidden, inputs) -> (…, blocks, 2, padded inputs, BLOCK)"""
        values = values.unflatten(-2, (2, hidden)).transpose(-2, -1)  # (…, 2, inputs, hidden)
        values = _padded(values, *values.shape[:-2], inputs, H).unflatten(-1, blocks)
        return values.movedim(-2, -4)

    nothing = plan.skip_bias.new_zeros(0)
    front = plan.input_embedding
    if isinstance(front, CodeEmbeddingPlan):
        tables, levels, input_bias = _padded(front.tables, front.taps, front.num_codes + 1, C), nothing, nothing
    else:
        tables, levels = _padded(front.weight, front.taps, C), F.pad(front.levels, (0, 1))
        input_bias = _padded(front.bias, C)
    weights = torch.stack([layer.weight for layer in plan.layers])  # (layers, taps, 2 * hidden, channels)
    conditions = nothing
    if plan.condition_channels:
        conditions = torch.stack([layer.condition[:, : plan.condition_channels] for layer in plan.layers])
        conditions = halves(conditions, tiling.F)
    residuals, residual_biases = plan.skip_bias.new_zeros(depth, H, C), plan.skip_bias.new_zeros(depth, C)
    for index, layer in enumerate(plan.layers):
        if layer.residual is not None:
            residuals[index, :hidden, : plan.channels] = layer.residual.T
            residual_biases[index, : plan.channels] = layer.residual_bias
    (head, head_bias), (out, out_bias) = plan.head
    packed = {
        "weights": halves(weights, C).movedim(1, 2),  # (layers, blocks, taps, 2, C, BLOCK)
        "conditions": conditions,
        "residuals": residuals,
        "skips": _padded(plan.skip_weight.T.unflatten(0, (depth, hidden)), depth, H, S),
        "head": _padded(head.T, S, E).unflatten(1, (-1, tiling.HEAD_BLOCK)).movedim(1, 0),
        "out": _padded(out.T, E, Q),
    }
    packed = {name: values.to(dtype).contiguous() for name, values in packed.items()}
    exact = {
        "tables": tables,
        "levels": levels,
        "input_bias": input_bias,
        "biases": biases,
        "residual_biases": residual_biases,
        "skip_bias": _padded(plan.skip_bias, S),
        "head_bias": _padded(head_bias, E),
        "out_bias": F.pad(out_bias, (0, Q - len(out_bias)), value=float("-inf")),
    }
    return packed | {name: values.float().contiguous() for name, values in exact.items()}


def _pad(width: int) -> int:
    """The least width of a tile that holds it."""
    return max(16, 1 << (width - 1).bit_length())


def _padded(values: Tensor, *shape: int) -> Tensor:
    """Zeros behind the values, up to a shape."""
    whole = values.new_zeros(shape)
    whole[tuple(slice(size) for size in values.shape)] = values
    return whole
