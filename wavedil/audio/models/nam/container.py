"""Several networks of one effect, of which a quality picks one."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from torch import Tensor, nn

from wavedil.audio.effects.compiled.program import Program, lower
from wavedil.audio.models.effect_model import EffectModel, Quality
from wavedil.audio.models.nam.model import NAM
from wavedil.core.schema import Range, SampleRate, checked
from wavedil.core.stream import State
from wavedil.errors import WavedilError, count_text, shown
from wavedil.weights import register


@register
class NAMContainer(EffectModel):
    """Networks of one effect in ascending quality and cost; one of them runs: ``(batch, 1, time) -> (batch, 1, time)``.

    A quality uses the first network whose ``max_values`` entry is above it, and at 1 the last.

    Args:
        networks: effect models without knobs, e.g. :class:`NAM`, of one sample rate; or names of networks of
            :class:`NAM`, e.g. ``["a2_3", "a2_8"]``, the pair that neural-amp-modeler 0.13 trains.
        max_values: for each network the quality where the next one begins: ascending, 1 for the last. None: in equal
            steps.
        sample_rate: in Hz, of named networks; None for that of the networks, or 48000.
        quality: of the network that ``forward`` and ``step`` use. :meth:`at_quality` returns that of another quality.
        metadata: plain values stored in the files.
    """

    __module__ = "wavedil.audio.models.nam"

    def __init__(
        self,
        networks: Sequence[EffectModel | str],
        max_values: Sequence[Annotated[float, Range(0, 1e6)]] | None = None,
        *,
        sample_rate: SampleRate | None = None,
        quality: Quality = 1.0,
        metadata: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        rate = next((network.sample_rate for network in networks if not isinstance(network, str)), sample_rate or 48000)
        networks = [NAM(each, sample_rate=rate) if isinstance(each, str) else each for each in networks]
        if max_values is None:
            max_values = [(index + 1) / len(networks) for index in range(len(networks))]
        if len(networks) != len(max_values) or not networks:
            raise WavedilError(f"max_values has {count_text(len(max_values), 'entry')}: expected one for each network")
        if list(max_values) != sorted(set(max_values)) or not max_values[-1] >= 1:
            raise WavedilError(f"max_values is {shown(max_values)}: expected ascending numbers of which the last is 1")
        for index, network in enumerate(networks):
            if network.knobs or network.sample_rate != networks[0].sample_rate:
                raise WavedilError(
                    f"networks[{index}] has sample rate {network.sample_rate} and knobs {shown(list(network.knobs))}: "
                    f"expected {networks[0].sample_rate}, as the first network has, and no knobs"
                )
        if sample_rate not in (None, networks[0].sample_rate):
            raise WavedilError(
                f"sample_rate is {sample_rate}: expected that of the networks, {networks[0].sample_rate}"
            )
        self.networks, self.max_values = nn.ModuleList(networks), list(max_values)
        self.quality, self.metadata = quality, metadata
        self.sample_rate = networks[0].sample_rate

    @checked
    def at_quality(self, quality: Quality) -> EffectModel:
        """The network of another quality."""
        index = next((i for i, end in enumerate(self.max_values) if quality < end), len(self.max_values) - 1)
        return self.networks[index]

    @property
    def selected(self) -> EffectModel:
        """The network of ``quality``."""
        return self.at_quality(self.quality)

    def parts(self) -> list[EffectModel]:
        return list(self.networks)

    def part_names(self) -> list[str]:
        """The range of qualities of each network."""
        ends = [f"quality below {end:.3g}" for end in self.max_values[:-1]]
        return [*ends, f"quality {self.max_values[-2]:.3g} to 1" if ends else "any quality"]

    def forward(self, x: Tensor, knobs: Tensor | None = None, skip: int = 0) -> Tensor:
        """``(batch, 1, time) -> (batch, 1, time - skip)``, without the first ``skip`` outputs."""
        return self.selected(x, knobs, skip)

    def step(self, x: Tensor, state: State | None = None, knobs: Tensor | None = None) -> tuple[Tensor, State]:
        """The next chunk ``(batch, 1, time)``, of any length: its output and the state after it."""
        return self.selected.step(x, state, knobs)

    def program(self) -> Program:
        """The selected network for compiled code."""
        return lower(self.selected)

    @property
    def input_name(self) -> str | None:
        return self.selected.input_name

    @property
    def receptive_field(self) -> int:
        return self.selected.receptive_field

    @property
    def dilations(self) -> tuple[int, ...]:
        return self.selected.dilations

    @property
    def kernel_size(self) -> int:
        return self.selected.kernel_size

    @property
    def settle(self) -> float:
        return self.selected.settle

    @property
    def start_description(self) -> str:
        return self.selected.start_description
