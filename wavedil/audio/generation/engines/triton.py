"""The triton engine: many samples per kernel launch, for models with categorical outputs on a CUDA device.

Each program generates 16 streams and reads every weight once per sample; see ``triton_kernels.py``. Sums are float32,
in an order that does not depend on the batch, so a stream is the same in any batch. ``precision="bf16"`` rounds weights
and the inputs of products, past ones included, to bfloat16.
"""

import os
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from shutil import which
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from wavedil.audio.distributions.categorical import Categorical
from wavedil.audio.generation.engines.session import Session
from wavedil.audio.generation.engines.triton_packing import TILE, Tiling, max_taps, pack_weights, pad_zeros, padded_taps
from wavedil.audio.generation.plan import CodeEmbeddingPlan, GenerationPlan, make_state, read_state
from wavedil.core.stream import State
from wavedil.errors import WavedilError, count_text
from wavedil.extras import install

WARPS = 8  # per program


class TritonSession(Session):
    """Sampling by one kernel. The plan needs a categorical output and a head of two products."""

    precisions = ("fp32", "bf16")

    @classmethod
    def obstacle(cls, plan: GenerationPlan, batch: int) -> str | None:
        if plan.device.type != "cuda":
            return f"the model is on {plan.device}, not on a CUDA device"
        if (feature := _unsupported_feature(plan)) is not None:
            return f"no support for {feature}"
        if find_spec("triton") is None:
            return "triton is not installed"
        if _compiler() is None:
            return "no C compiler"
        if torch.cuda.get_device_capability(plan.device) < (8, 0):
            return "the GPU has a compute capability below 8.0"
        shared = _shared_memory(plan.device)
        if not all(Tiling.choose(plan, precision, shared) for precision in cls.precisions):
            return f"the model is too wide for {shared} bytes of shared memory"
        return None

    def setup(self, state: State) -> None:
        plan, feature = self.plan, _unsupported_feature(self.plan)
        if feature is not None:
            raise WavedilError(f"engine triton does not support {feature}: use engine='torch' or engine='auto'")
        self.kernels = _kernels(plan.device)
        shared = _shared_memory(plan.device)
        tiling = Tiling.choose(plan, self.precision, shared)
        if tiling is None:
            raise WavedilError(
                f"the model has {plan.channels} channels, {count_text(max_taps(plan), 'tap')} per layer and "
                f"{count_text(len(plan.skip_bias), 'skip channel')}: too wide for the "
                f"{shared} bytes of shared memory of this GPU; use engine='graphs'"
            )
        self.tiling = tiling
        self.dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.streams = -(-self.batch // TILE) * TILE
        self.weights = pack_weights(plan, tiling, self.dtype, self._biases())
        self.sizes = torch.tensor([layer.span + 1 for layer in plan.layers], dtype=torch.int32, device=plan.device)
        self._load(state)

    def _biases(self) -> Tensor:
        """(layers, streams or 1, 2, H): a speaker adds a separate bias for each stream."""
        plan, tiling = self.plan, self.tiling
        biases = torch.stack([layer.bias for layer in plan.layers]).double().unsqueeze(1)
        if self.speaker is not None:
            weights = torch.stack([layer.condition[:, plan.condition_channels :] for layer in plan.layers]).double()
            biases = biases + self.speaker.double() @ weights.transpose(1, 2)
            biases = F.pad(biases, (0, 0, 0, self.streams - self.batch))
        return pad_zeros(biases.unflatten(2, (2, plan.hidden)).float(), *biases.shape[:2], 2, tiling.H)

    def _load(self, state: State) -> None:
        """Fills the ring buffers. A layer's slot 0 is for its next input, the others hold the past, oldest first."""
        plan, tiling = self.plan, self.tiling
        tiles, slots = self.streams // TILE, int(self.sizes.sum())
        self.rings = torch.zeros(tiles, slots, TILE, tiling.C, dtype=self.dtype, device=plan.device)
        first = (self.sizes.cumsum(0, dtype=torch.int32) - self.sizes).tolist()
        codes, histories = read_state(state, len(plan.layers))
        for start, layer, history in zip(first, plan.layers, histories, strict=True):
            history = history.permute(2, 0, 1)  # (span, batch, channels)
            history = pad_zeros(history, layer.span, self.streams, tiling.C).to(plan.device)
            past = self.rings[:, start + 1 : start + 1 + layer.span]
            past.copy_(history.unflatten(1, (tiles, TILE)).transpose(0, 1))
        taps = max_taps(plan)
        rows = [[start, 0, *padded_taps(layer, taps)[0]] for start, layer in zip(first, plan.layers, strict=True)]
        self.schedule = torch.tensor(rows, dtype=torch.int32, device=plan.device)
        self.recent = pad_zeros(codes.T.int(), codes.shape[1], self.streams).to(plan.device)  # (taps, streams)

    @torch.no_grad()
    def advance(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> Tensor:
        inputs = uniforms if forced is None else forced
        if forced is not None and forced.numel() and not 0 <= int(forced.min()) <= int(forced.max()) < self._num_codes:
            raise WavedilError(
                f"codes are in {int(forced.min())} to {int(forced.max())}: expected 0 to {self._num_codes - 1}"
            )
        # As many steps per launch as 32-bit offsets can address.
        widest = max(self.tiling.Q if forced is not None else 1, self.tiling.F)
        steps = max(1, (2**31 - 1) // (self.streams * widest) - len(self.recent))
        parts = []
        for start in range(0, max(inputs.shape[1], 1), steps):
            part = slice(start, start + steps)
            parts.append(
                self._launch(inputs[:, part], None if condition is None else condition[..., part], forced is not None)
            )
        return torch.cat(parts, -1)

    def _launch(self, inputs: Tensor, condition: Tensor | None, forced: bool) -> Tensor:
        """Advances by the columns of ``inputs`` ``(batch, time)``: codes if ``forced``, else uniforms."""
        plan, tiling, sampling, device = self.plan, self.tiling, self.sampling, self.plan.device
        steps, taps = inputs.shape[1], len(self.recent)
        codes = torch.zeros(taps + steps, self.streams, dtype=torch.int32, device=device)
        codes[:taps] = self.recent
        uniforms = parameters = features = torch.empty(0, device=device)
        if forced:
            codes[taps:, : self.batch] = inputs.T
            parameters = torch.empty(steps, self.streams, tiling.Q, device=device)
        else:
            uniforms = pad_zeros(inputs.T.to(device, torch.float64), steps, self.streams)
        if condition is not None:
            features = pad_zeros(condition.permute(2, 0, 1), steps, self.streams, tiling.F).to(self.dtype)
        embedding = plan.input_embedding
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            self.kernels.sample_steps[(self.streams // TILE,)](
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
                # Below this only the likeliest code has any weight, and float32 would divide by zero.
                temperature=max(sampling.temperature, 1e-30),
                top_k=sampling.top_k or 0,
                top_p=sampling.top_p or 1.0,
                LAYERS=len(plan.layers),
                INPUT_TAPS=taps,
                ROWS=embedding.num_codes + 1,
                SCALAR=not isinstance(embedding, CodeEmbeddingPlan),
                TAPS=max_taps(plan),
                STREAM_BIAS=self.speaker is not None,
                FORCED=forced,
                GREEDY=sampling.temperature == 0,
                CUT_K=sampling.top_k is not None and sampling.top_k < self._num_codes,
                CUT_P=sampling.top_p is not None and sampling.top_p < 1,
                **vars(tiling),
                num_warps=WARPS,
                num_stages=tiling.STAGES,
            )
        self.recent = codes[steps:]
        self.schedule[:, 1] = (self.schedule[:, 1] + steps) % self.sizes
        if forced:
            return parameters[:, : self.batch, : self._num_codes].permute(1, 2, 0)
        return codes[taps:, : self.batch].T.long()

    @property
    def _num_codes(self) -> int:
        return self.plan.distribution.num_parameters

    def current_state(self) -> State:
        histories = []
        for layer, (first, now, *_) in zip(self.plan.layers, self.schedule.tolist(), strict=True):
            ring = self.rings[:, first : first + layer.span + 1].roll(-now, 1)[:, 1:]  # oldest first
            history = ring.transpose(0, 1).flatten(1, 2)[:, : self.batch, : self.plan.channels]
            histories.append(history.permute(1, 2, 0).float().contiguous())
        return make_state(self.recent[:, : self.batch].T.long(), histories)


def _unsupported_feature(plan: GenerationPlan) -> str | None:
    """A part of a plan that the kernel cannot compute, for messages; None if there is none."""
    if type(plan.distribution) is not Categorical:
        return f"the distribution {type(plan.distribution).__name__}"
    if plan.unusual_head:
        return plan.unusual_head
    return None


def _kernels(device: torch.device) -> ModuleType:
    """The module of kernels; raises WavedilError if it cannot run on a device."""
    installed = find_spec("triton") is not None
    kernels = import_module("wavedil.audio.generation.engines.triton_kernels") if installed else None
    if device.type != "cuda" and (kernels is None or kernels.COMPILED):
        raise WavedilError(f"the model is on {device}: the triton engine needs a CUDA device; use engine='auto'")
    if kernels is None:
        raise WavedilError(f"the triton engine needs the package triton: {install('triton')}, or use engine='graphs'")
    if kernels.COMPILED and _compiler() is None:
        raise WavedilError("the triton engine needs a C compiler: install gcc or set CC, or use engine='graphs'")
    return kernels


def _compiler() -> str | None:
    """The C compiler that triton needs to build the code that launches kernels."""
    return os.environ.get("CC") or which("gcc") or which("clang")


def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may use."""
    if device.type != "cuda":
        return 227 * 1024  # under Triton's interpreter: as an H100
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin
