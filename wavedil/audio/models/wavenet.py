"""WaveNet (van den Oord et al. 2016, arXiv 1609.03499). The file reads top-down like the paper."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.audio.conditioning.conditioner import Conditioner, Conditioning, Speaker
from wavedil.audio.distributions.base import Distribution
from wavedil.audio.distributions.mixtures import Components, make_distribution
from wavedil.audio.distributions.quantizers import Codes, PreEmphasis, make_quantizer
from wavedil.audio.generation.plan import GenerationPlan, LayerPlan
from wavedil.audio.models.initialization import init_conv_, init_stack_
from wavedil.audio.models.input_embedding import make_input_embedding
from wavedil.core import DilatedConv, DilatedStack, Schedule, add_weight_norm  # shared with ContextModule, for images
from wavedil.core.schema import Channels, LayersPerSegment, SampleRate, Scale, Taps
from wavedil.core.stream import State, add_prefix, substate
from wavedil.errors import WavedilError, first_line, with_article
from wavedil.ops.fallback import is_eager_cpu
from wavedil.weights import register


@register
class WaveNet(nn.Module):
    """WaveNet, an autoregressive model of quantized audio: input embedding, stack of causal gated blocks, head.

    ``forward(codes, condition)``: int64 ``(batch, time)`` and ``(batch, condition channels, time)`` to distribution
    parameters ``(batch, parameters, time)``. ``parameters[..., t]`` predict ``codes[:, t]`` from the codes before t and
    the condition up to and including t. At time 0 every layer's history is zero and the previous code is that of zero
    amplitude (code 128 if ``num_codes`` is 256), in training, evaluation, streaming and generation alike.

    Args:
        channels, skip_channels: residual and skip channels.
        dilations: schedule of the stack, e.g. ``"1..512 x2"``.
        kernel_size: taps of each dilated convolution.
        hidden_channels: width of the gated activations; default ``channels``.
        head_channels: width between the head's two layers; default ``skip_channels``.
        head: a network of your own, of a registered class, in place of :class:`Head`: ``(batch, skip_channels, time)``
            to ``(batch, parameters, time)``, each time step by itself. Only the engine ``torch`` samples from it.
        input_kernel_size: taps of the causal input convolution.
        input: ``"codes"`` embeds each code as a vector, ``"scalar"`` takes its amplitude.
        quantizer, num_codes: ``"mulaw"`` (256 codes are usual) or ``"linear"`` (65536 codes are 16-bit sound).
        pre_emphasis: coefficient a in [0, 1): the codes are those of ``x[t] - a x[t-1]`` in place of the sound x, which
            has less quantization noise at high frequencies, e.g. 0.85 for speech with 256 codes; see
            :mod:`wavedil.audio.distributions.quantizers`.
        distribution: of the next code. ``"categorical"`` is a softmax over the codes. ``"logistics"`` and
            ``"gaussians"`` are mixtures over amplitudes (:mod:`wavedil.audio.distributions.mixtures`). Or an instance
            of a registered subclass of :class:`wavedil.audio.distributions.Distribution`. The likelihood is a
            probability of codes, not a density of amplitudes.
        components: number of components of a mixture; default 10 logistics or 1 Gaussian.
        condition: local features and their upsampling, e.g. ``NearestUpsampling(LogMel())``; see
            :mod:`wavedil.audio.conditioning.upsampling`.
        speakers: names of the speakers that the model can be conditioned on.
        speaker_channels: size of a speaker embedding.
        sample_rate: in Hz; stored with the model and used for the files that it generates.
        residual_scale, skip_scale, gate_order: see :class:`wavedil.GatedBlock`; ``skip_scale`` may be a list with one
            value per layer.
        weight_norm: normalize the weights of stack and head; ``fold_weight_norm(model)`` removes it again.
        checkpoint_layers: see :class:`wavedil.DilatedStack`.
    """

    #: Name of this kind of model in messages.
    title = "a WaveNet"
    #: Name of the first input in an ONNX file.
    input_name = "codes"

    def __init__(
        self,
        channels: Channels = 64,
        skip_channels: Channels = 128,
        dilations: Schedule = "1..512 x2",
        kernel_size: Taps = 2,
        *,
        hidden_channels: Channels | None = None,
        head_channels: Channels | None = None,
        head: nn.Module | None = None,
        input_kernel_size: Taps = 1,
        input: str = "codes",
        quantizer: str = "mulaw",
        num_codes: Codes = 256,
        pre_emphasis: PreEmphasis = 0.0,
        distribution: str | Distribution = "categorical",
        components: Components | None = None,
        condition: nn.Module | None = None,
        speakers: Sequence[str] = (),
        speaker_channels: Channels = 16,
        sample_rate: SampleRate = 16000,
        residual_scale: Scale = 1.0,
        skip_scale: Scale | Sequence[Scale] = 1.0,
        gate_order: str = "tanh_first",
        weight_norm: bool = False,
        checkpoint_layers: LayersPerSegment = 0,
    ):
        super().__init__()
        self.quantizer = make_quantizer(quantizer, num_codes, pre_emphasis)
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
        if head is None:
            parameters, needs_float32 = self.distribution.num_parameters, self.distribution.needs_float32
            head = Head(skip_channels, head_channels or skip_channels, parameters, needs_float32)
        else:
            _check_head(head, skip_channels, head_channels, self.distribution.num_parameters)
        self.head = head
        self.reset_parameters()
        if weight_norm:
            add_weight_norm(self)
        self.sample_rate, self.num_codes = sample_rate, num_codes

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initializes the weights; see :mod:`wavedil.audio.models.initialization`."""
        init_stack_(self.stack)
        for layer in self.stack.layers:
            if layer.condition is not None:
                init_conv_(layer.condition, 0.5)
        if not isinstance(self.head, Head):
            return
        init_conv_(self.head.hidden, 2**0.5)
        if self.distribution.needs_float32:
            init_conv_(self.head.out, 0.1)  # its outputs are amplitudes, and sound has an RMS of about 0.1

    def forward(self, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        self._check_codes(codes)
        self.conditioner.check(condition, codes)
        x = self.input_embedding(F.pad(codes, (1, 0), value=self.zero_code)[:, :-1])  # at t: the code at t - 1
        return self.head(self.stack(x, condition))

    def _check_codes(self, codes: Tensor) -> None:
        if codes.ndim != 2 or codes.dtype != torch.int64:
            raise WavedilError(f"codes is {codes.dtype} of shape {tuple(codes.shape)}: expected int64 (batch, time)")
        if is_eager_cpu(codes):  # on a GPU the check would wait for the device
            self.quantizer.check_range(codes)

    def nll(self, codes: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """Negative log-likelihood in nats of each code, ``(samples,)``; ``mask`` ``(batch, time)`` selects samples."""
        return self.distribution.nll(self(codes, condition), codes, mask)

    def loss(self, codes: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """Mean negative log-likelihood in nats per sample, over the samples where ``mask`` is True."""
        if mask is not None and torch.compiler.is_compiling():  # the number of selected samples is not known
            nll = self.nll(codes, None, condition)
            return torch.where(mask.reshape(-1), nll, 0).sum() / mask.sum()
        return self.nll(codes, mask, condition).mean()

    @torch.no_grad()
    def set_prior(self, counts: Tensor) -> None:
        """Sets the head's bias so that training starts from the frequencies of the codes, ``(num_codes,)`` counts."""
        prior = self.distribution.prior(counts)
        if prior is not None and isinstance(self.head, Head):
            self.head.out.bias.copy_(prior)

    def start(self, batch: int) -> State:
        """The state before the first sample of ``batch`` streams."""
        device = next(self.stack.parameters()).device
        x, embedding = self.input_embedding.step(torch.zeros(batch, 0, dtype=torch.int64, device=device))
        channels = self.conditioner.channels
        _, stack = self.stack.step(x, condition=x.new_zeros(batch, channels, 0) if channels else None)
        previous = torch.full((batch, 1), self.zero_code, device=device)
        return {"previous": previous, **add_prefix("input_embedding", embedding), **add_prefix("stack", stack)}

    def step(self, codes: Tensor, state: State | None = None, condition: Tensor | None = None) -> tuple[Tensor, State]:
        """The next chunk, of any length: parameters as :meth:`forward` returns them, and the state after the chunk."""
        self._check_codes(codes)
        self.conditioner.check(condition, codes)
        state = self.start(len(codes)) if state is None else state
        expected = codes.shape[0], 1  # not len(codes), which an exporter would take as a constant
        if "previous" not in state or state["previous"].shape != expected:
            found = tuple(state["previous"].shape) if "previous" in state else "missing"
            text = f"state has previous {found}: expected {expected}, as from WaveNet.start or step"
            raise WavedilError(f"{text}; start with state=None")
        delayed = torch.cat([state["previous"], codes], dim=1)  # its last code is the first input of the next chunk
        x, embedding = self.input_embedding.step(delayed[:, :-1], substate(state, "input_embedding"))
        skips, stack = self.stack.step(x, substate(state, "stack"), condition)
        state = {"previous": delayed[:, -1:].clone()}
        return self.head(skips), state | add_prefix("input_embedding", embedding) | add_prefix("stack", stack)

    def features(self, sound: Tensor) -> Tensor | None:
        """Local features ``(batch, channels, frames)`` of sound ``(batch, time)``; None if the model takes none."""
        return None if self.conditioner.upsampling is None else self.conditioner.upsampling.features(sound)

    def conditioning(
        self, condition: Tensor | None = None, speaker: Speaker | None = None, num: int = 1
    ) -> Conditioning:
        """The :class:`Conditioning` of ``num`` streams; see :meth:`Conditioner.conditioning`."""
        return self.conditioner.conditioning(condition, speaker, num)

    def encode(self, sound: Tensor) -> Tensor:
        """Sound ``(..., time)`` in [-1, 1] to codes of the same shape. The sound before it is zero."""
        return self.quantizer.encode_sound(sound)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes ``(..., time)`` to float32 sound in [-1, 1] of the same shape; ``encode`` returns the same codes.

        The sound before it is zero. With pre-emphasis, sound beyond [-1, 1] is clipped, and then its codes differ.
        """
        return self.decode_step(codes)[0]

    def decode_step(self, codes: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The next codes ``(..., time)`` to sound, and the state after it; see :meth:`Quantizer.decode_sound`."""
        return self.quantizer.decode_sound(codes, state)

    def plan(self) -> GenerationPlan:
        """The weights and their wiring as flat tensors, for the generation engines."""
        skip_weight, skip_bias = self.stack.skip_product()
        return GenerationPlan(
            input_embedding=self.input_embedding.plan(),
            layers=tuple(LayerPlan.of(layer) for layer in self.stack.layers),
            residual_scale=self.stack.layers[0].residual_scale,
            skip_weight=skip_weight.detach().flatten(1),
            skip_bias=skip_bias.detach(),
            head=self.head.plan() if isinstance(self.head, Head) else self.head,
            distribution=self.distribution,
            condition_channels=self.conditioner.feature_channels,
            speaker_channels=self.conditioner.speaker_channels,
        )

    @property
    def dilations(self) -> tuple[int, ...]:
        return self.stack.dilations

    @property
    def kernel_size(self) -> int:
        return self.stack.kernel_size

    @property
    def receptive_field(self) -> int:
        """Past samples that a prediction depends on."""
        return self.stack.receptive_field + self.input_embedding.receptive_field - 1

    @property
    def zero_code(self) -> int:
        """The code of zero amplitude, which precedes the first sample."""
        return self.quantizer.zero

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the speakers that the model can be conditioned on."""
        return self.conditioner.speakers

    @staticmethod
    def evaluation() -> Callable[..., Any]:
        """The function behind ``wavedil evaluate``."""
        from wavedil.audio.evaluation import evaluate_recordings

        return evaluate_recordings

    @staticmethod
    def sampling() -> Callable[..., Any]:
        """The function behind ``wavedil sample``."""
        from wavedil.audio.generation.sample_files import sample_files

        return sample_files


class Head(nn.Module):
    """Skip sum to distribution parameters: ReLU, 1x1, ReLU, 1x1 (section 2.4, figure 4).

    ``needs_float32`` keeps the last layer out of autocast: bf16 has 8 bits of precision, too few for amplitudes.
    """

    def __init__(self, channels: int, hidden: int, parameters: int, needs_float32: bool = False):
        super().__init__()
        self.hidden = DilatedConv(1, channels, hidden, 1)
        self.out = DilatedConv(1, hidden, parameters, 1)
        self.needs_float32 = needs_float32

    def plan(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Weight and bias of both layers."""
        return tuple((conv.weight.detach().flatten(1), conv.bias.detach()) for conv in (self.hidden, self.out))

    def forward(self, skips: Tensor) -> Tensor:
        h = F.relu(self.hidden(F.relu(skips)))
        if not self.needs_float32:
            return self.out(h)
        with torch.autocast(h.device.type, enabled=False):
            return self.out(h.to(self.out.bias.dtype))


@torch.no_grad()
def _check_head(head: nn.Module, skip_channels: int, head_channels: int | None, parameters: int) -> None:
    if head_channels is not None:
        raise WavedilError(f"head_channels is {head_channels}, but head is {with_article(head)}: set only one of them")
    try:
        found = tuple(head(torch.zeros(1, skip_channels, 1)).shape)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise WavedilError(f"head does not take (1, {skip_channels}, 1): {first_line(error)}") from None
    if found != (1, parameters, 1):
        raise WavedilError(f"head returns {found} for (1, {skip_channels}, 1): expected (1, {parameters}, 1)")
