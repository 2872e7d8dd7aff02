"""WaveNet (van den Oord et al. 2016, arXiv 1609.03499). The file reads top-down like the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.audio.conditioning.conditioner import Conditioner, Conditioning
from wavedil.audio.distributions.mixtures import make_distribution
from wavedil.audio.distributions.quantizers import make_quantizer
from wavedil.audio.generation.plan import GenerationPlan, LayerPlan
from wavedil.audio.models.initialization import init_conv_, init_stack_
from wavedil.audio.models.input_embedding import make_input_embedding
from wavedil.core import DilatedConv, DilatedStack, Schedule, add_weight_norm
from wavedil.core.stream import State, named, part
from wavedil.errors import WavedilError
from wavedil.weights import register


@register
class WaveNet(nn.Module):
    """Autoregressive model of a sound's codes: front, stack of causal gated blocks, head.

    ``forward(codes, condition)``: ``(batch, time) int64 -> (batch, parameters, time)``, where ``parameters[..., t]`` is
    the distribution of ``codes[:, t]`` given the codes before t and, where the model has one, the condition up to and
    including t, ``(batch, channels, time)`` as ``conditioning(features, speaker).joined(0, time)`` makes it. At time 0
    every layer's history is zero and the code before the first is the zero-amplitude code (128 for 256 codes), in
    training, evaluation, streaming and generation alike.

    Args:
        channels, skip_channels: residual and skip channels.
        dilations: schedule of the stack, e.g. ``"1..512 x2"``.
        kernel_size: taps of each dilated convolution.
        hidden_channels: width of the gated activations; default ``channels``.
        head_channels: width between the head's two products; default ``skip_channels``.
        input_kernel_size: taps of the causal front convolution.
        input: what the front sees of a code: ``"codes"``, a vector for each, or ``"scalar"``, its amplitude.
        quantizer, num_codes: ``"mulaw"`` (256 codes are usual) or ``"linear"`` (65536 are 16-bit sound).
        distribution: of the next code: ``"categorical"`` (softmax), or over amplitudes ``"logistics"`` or
            ``"gaussians"``; see :mod:`wavedil.audio.distributions.mixtures`. Likelihoods are of codes, whichever it is.
        components: of a mixture; default 10 logistics or 1 Gaussian.
        condition: local features and how they get to the sample rate, e.g. ``NearestUpsampling(LogMel())``; see
            :mod:`wavedil.audio.conditioning.upsampling`.
        speakers: names of the voices that the model can be asked for.
        speaker_channels: length of the vector that stands for a speaker.
        sample_rate: in Hz; it is stored with the model and given to the files it makes.
        residual_scale, skip_scale, gate_order: see :class:`wavedil.GatedBlock`; ``skip_scale`` may be one for each
            layer.
        weight_norm: normalize the weights of stack and head; ``fold_weight_norm(model)`` folds it away.
        checkpoint_layers: see :class:`wavedil.DilatedStack`.
    """

    #: In messages.
    title = "a WaveNet"

    def __init__(
        self,
        channels: int = 64,
        skip_channels: int = 128,
        dilations: Schedule = "1..512 x2",
        kernel_size: int = 2,
        *,
        hidden_channels: int | None = None,
        head_channels: int | None = None,
        input_kernel_size: int = 1,
        input: str = "codes",
        quantizer: str = "mulaw",
        num_codes: int = 256,
        distribution: str = "categorical",
        components: int | None = None,
        condition: nn.Module | None = None,
        speakers: Sequence[str] = (),
        speaker_channels: int = 16,
        sample_rate: int = 16000,
        residual_scale: float = 1.0,
        skip_scale: float | Sequence[float] = 1.0,
        gate_order: str = "tanh_first",
        weight_norm: bool = False,
        checkpoint_layers: int = 0,
    ):
        super().__init__()
        if not isinstance(skip_channels, int) or skip_channels < 1:
            raise WavedilError(
                f"skip_channels is {skip_channels!r}: expected a positive integer, since the head reads the skips"
            )
        if not isinstance(sample_rate, int) or sample_rate < 1:
            raise WavedilError(f"sample_rate is {sample_rate!r}: expected Hz as a positive integer")
        self.quantizer = make_quantizer(quantizer, num_codes)
        self.distribution = make_distribution(distribution, self.quantizer, components)
        self.input_embedding = make_input_embedding(input, self.quantizer, channels, input_kernel_size)
        self.conditioner = Conditioner(condition, speakers, speaker_channels, sample_rate)
        self.stack = DilatedStack(
            ndim=1,
            channels=channels,
            dilations=dilations,
            kernel_size=kernel_size,
            causal=True,
            skip_channels=skip_channels,
            hidden_channels=hidden_channels,
            condition_channels=self.conditioner.channels,
            residual_scale=residual_scale,
            skip_scale=skip_scale,
            gate_order=gate_order,
            checkpoint_layers=checkpoint_layers,
        )
        self.head = Head(
            skip_channels,
            head_channels or skip_channels,
            self.distribution.num_parameters,
            self.distribution.needs_float32,
        )
        self.reset_parameters()
        if weight_norm:
            add_weight_norm(self)
        self.sample_rate, self.num_codes = sample_rate, num_codes

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights before training; see :mod:`wavedil.audio.models.initialization`."""
        init_stack_(self.stack)
        for layer in self.stack.layers:
            if layer.condition is not None:
                init_conv_(layer.condition, 0.5)
        init_conv_(self.head.hidden, 2**0.5)
        if self.distribution.needs_float32:
            init_conv_(self.head.out, 0.1)  # its numbers are amplitudes, and sound has an RMS of about 0.1

    @torch.no_grad()
    def set_prior(self, counts: Tensor) -> None:
        """Starts the head at the frequencies of the codes, ``(codes,)`` counts, which it would learn first of all."""
        self.head.out.bias.copy_(self.distribution.prior(counts))

    @property
    def dilations(self) -> tuple[int, ...]:
        return self.stack.dilations

    @property
    def kernel_size(self) -> int:
        return self.stack.kernel_size

    @property
    def receptive_field(self) -> int:
        """Samples of the past that a prediction sees."""
        return self.stack.receptive_field + self.input_embedding.receptive_field - 1

    @property
    def zero_code(self) -> int:
        """The code of zero amplitude: what comes before the first sample."""
        return self.quantizer.zero

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the voices that the model can be asked for."""
        return self.conditioner.speakers

    def forward(self, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        x = self.input_embedding(self._shift(codes, None))
        return self.head(self.stack(x, self.conditioner.checked(condition, codes)))

    def features(self, sound: Tensor) -> Tensor | None:
        """The features ``(batch, channels, frames)`` of sound ``(batch, time)`` that the model hears; None without."""
        return None if self.conditioner.local is None else self.conditioner.local.features(sound)

    def conditioning(
        self,
        condition: Tensor | None = None,
        speaker: Tensor | str | int | Sequence[str | int] | None = None,
        num: int = 1,
    ) -> Conditioning:
        """What a user's features and speakers mean for ``num`` streams; see :meth:`Conditioner.given`."""
        return self.conditioner.given(condition, speaker, num)

    def step(self, codes: Tensor, state: State | None = None, condition: Tensor | None = None) -> tuple[Tensor, State]:
        """The next chunk, any length: parameters as in :meth:`forward`, and the state after it."""
        previous = None
        if state is not None:
            if "previous" not in state or state["previous"].shape != (codes.shape[0], 1):
                raise WavedilError(
                    f"state has keys {sorted(state)[:3]} …: expected that of WaveNet.start or step for "
                    f"{codes.shape[0]} streams; start again with state=None"
                )
            previous = state["previous"]
        x, front = self.input_embedding.step(self._shift(codes, previous), part(state, "input_embedding"))
        skips, stack = self.stack.step(x, part(state, "stack"), self.conditioner.checked(condition, codes))
        last = (
            codes[:, -1:]
            if codes.shape[1]
            else self.start(codes.shape[0])["previous"]
            if previous is None
            else previous
        )
        return self.head(skips), {"previous": last.clone(), **named("input_embedding", front), **named("stack", stack)}

    def start(self, batch: int) -> State:
        """The state before the first sample."""
        device = self.head.out.bias.device
        x, front = self.input_embedding.step(torch.zeros(batch, 0, dtype=torch.int64, device=device))
        channels = self.conditioner.channels
        _, stack = self.stack.step(x, condition=x.new_zeros(batch, channels, 0) if channels else None)
        previous = torch.full((batch, 1), self.zero_code, device=device)
        return {"previous": previous, **named("input_embedding", front), **named("stack", stack)}

    def nll(self, codes: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of each of ``(batch, time)`` codes, flat, or of those where ``mask`` is True."""
        return self.distribution.nll(self(codes, condition), codes, mask)

    def loss(self, codes: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """Mean negative log-likelihood of ``(batch, time)`` codes, in nats per sample, where ``mask`` is True."""
        return self.nll(codes, mask, condition).mean()

    def encode(self, sound: Tensor) -> Tensor:
        """Sound in [-1, 1] to codes of the same shape."""
        return self.quantizer.encode(sound)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes to float32 sound in [-1, 1] of the same shape; ``encode`` gives the codes back."""
        return self.quantizer.decode(codes)

    def plan(self) -> GenerationPlan:
        """The flat description of weights and wiring that generation engines read."""
        block = self.stack.layers[0]
        skip_weight, skip_bias = self.stack.skip_product()
        return GenerationPlan(
            input_embedding=self.input_embedding.plan(),
            layers=tuple(LayerPlan.of(layer) for layer in self.stack.layers),
            residual_scale=block.residual_scale,
            skip_weight=skip_weight.detach().flatten(1),
            skip_bias=skip_bias.detach(),
            head=tuple(
                (conv.weight.detach().flatten(1), conv.bias.detach()) for conv in (self.head.hidden, self.head.out)
            ),
            distribution=self.distribution,
            condition_channels=self.conditioner.condition_channels,
            speaker_channels=self.conditioner.speaker_channels,
        )

    @staticmethod
    def evaluation() -> Callable[..., Any]:
        """The function behind ``wavedil evaluate``."""
        from wavedil.audio.corpus_evaluation import evaluate_recordings

        return evaluate_recordings

    def _shift(self, codes: Tensor, previous: Tensor | None) -> Tensor:
        """The input at t is the code at t - 1."""
        if codes.ndim != 2 or codes.dtype != torch.int64:
            raise WavedilError(
                f"codes are {codes.dtype} of shape {tuple(codes.shape)}: expected int64 of (batch, time)"
            )
        if previous is None:
            return F.pad(codes, (1, 0), value=self.zero_code)[:, : codes.shape[1]]
        return torch.cat([previous, codes], dim=1)[:, : codes.shape[1]]


class Head(nn.Module):
    """Skips to distribution parameters: ReLU, 1x1, ReLU, 1x1 (section 2.4, figure 4).

    ``needs_float32`` keeps the last product out of autocast: in bf16 an amplitude would have 8 bits.
    """

    def __init__(self, channels: int, hidden: int, parameters: int, needs_float32: bool = False):
        super().__init__()
        self.hidden = DilatedConv(1, channels, hidden, 1)
        self.out = DilatedConv(1, hidden, parameters, 1)
        self.needs_float32 = needs_float32

    def forward(self, skips: Tensor) -> Tensor:
        h = F.relu(self.hidden(F.relu(skips)))
        if not self.needs_float32:
            return self.out(h)
        with torch.autocast(h.device.type, enabled=False):
            return self.out(h.to(self.out.bias.dtype))
