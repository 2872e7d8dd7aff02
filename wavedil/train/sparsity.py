"""Pruning in training: blocks of weights that sampling on CPUs skips."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from wavedil.core import DilatedConv, GatedBlock
from wavedil.core.schema import Range, checked
from wavedil.errors import WavedilError
from wavedil.progress import say
from wavedil.train.module import TrainingModule

EVERY = 20  # steps between two prunings

Share = Annotated[float, Range(0, 1)]
Size = Annotated[int, Range(1, 2**16)]


class BlockSparsity(Callback):
    """Prunes the weights of gated layers during training: sets blocks with the lowest mean magnitude to zero.

    The numba engine skips blocks of zeros, so the trained model generates faster on a CPU. The weights of the dilated
    convolutions and of the projections of condition, residual and skip are pruned, each tensor to the same sparsity.
    With p from 0 to 1 between ``start`` and ``end``, the sparsity is ``sparsity * (1 - (1 - p) ** 3)``. A pruned weight
    stays zero, also in the moving average and in a resumed run.

    The metric ``sparsity`` is logged. The page of the run and ``wavedil inspect`` show the share of zero weights.

    Source: Zhu & Gupta 2017 (arXiv 1710.01878) for the schedule; Kalchbrenner et al. 2018 (arXiv 1802.08435, section
    4) for blocks of 16 x 1.

    Args:
        sparsity: share of blocks that are zero at the end.
        start, end: shares of the budget of the run (steps, epochs or time) between which the sparsity rises.
        outputs, inputs: size of a block. The engine skips blocks of 16 x 1 in fp32, 16 x 2 in bf16 and 16 x 4 in int8.

    Raises:
        WavedilError: in training: the network has no gated layers, or weight norm, or the strategy is ``fsdp``.
    """

    @checked
    def __init__(
        self,
        sparsity: Annotated[float, Range(0, 1, exclude_low=True, exclude_high=True)] = 0.75,
        start: Share = 0.1,
        end: Share = 0.6,
        outputs: Size = 16,
        inputs: Size = 4,
    ):
        super().__init__()
        if start > end:
            raise WavedilError(f"start is {start:g}, end is {end:g}: expected shares of the budget with start <= end")
        self.sparsity, self.start, self.end, self.outputs, self.inputs = sparsity, start, end, outputs, inputs
        self.reached = 0.0  # sparsity of the last pruning
        self.kept: dict[str, Tensor] = {}  # weight -> True where it is not pruned

    def state_dict(self) -> dict[str, Any]:
        return {"reached": self.reached, "kept": {name: kept.cpu() for name, kept in self.kept.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reached, self.kept = state_dict["reached"], state_dict["kept"]

    def on_train_start(self, trainer: L.Trainer, module: TrainingModule) -> None:
        if module.whole is not None:
            raise WavedilError("trainer.strategy is fsdp: BlockSparsity needs complete weights; use ddp")
        self._weights = {name: (weight, segments) for name, weight, segments in _layer_weights(module.network)}
        if not self._weights:
            raise WavedilError(
                f"trainer.callbacks has BlockSparsity, but {type(module.network).__name__} has no gated layers, which "
                "are those that it prunes: remove it"
            )
        if found := [name for name in self._weights if nn.utils.parametrize.is_parametrized(*_owner(module, name))]:
            raise WavedilError(
                f"{found[0]} has weight norm, with which BlockSparsity does not work: remove one of them"
            )
        trainer.optimizers[0].register_step_post_hook(lambda *_: self._after_step(trainer, module))
        self._apply(module)

    def on_train_batch_start(self, trainer: L.Trainer, module: TrainingModule, batch: Any, batch_idx: int) -> None:
        self._apply(module)  # RestartOnDivergence may have restored older weights

    def on_train_batch_end(
        self, trainer: L.Trainer, module: TrainingModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module.log("sparsity", self.reached)

    def _after_step(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Prunes and masks the weights: before the moving average, and before anything is saved."""
        if self.reached < self.sparsity:
            used = trainer.strategy.broadcast(module.budget_used(1))  # the clocks of processes differ
            progress = 1.0 if used >= self.end else (used - self.start) / (self.end - self.start)
            # The trainer counts a step after this function.
            if progress >= 1 or (progress > 0 and (trainer.global_step + 1) % EVERY == 0):
                self._prune(max(self.reached, self.sparsity * (1 - (1 - progress) ** 3)))
                if progress >= 1 and trainer.is_global_zero:
                    total = sum(kept.numel() for kept in self.kept.values())
                    share = 1 - sum(int(kept.sum()) for kept in self.kept.values()) / total
                    say(f"{share:.1%} of the {total:,} weights of the layers are pruned, the others are trained on")
        self._apply(module)

    @torch.no_grad()
    def _prune(self, sparsity: float) -> None:
        self.reached = sparsity
        for name, (weight, segments) in self._weights.items():
            magnitude = weight.detach().to("cpu", torch.float64).abs().flatten(2)  # there in every process alike
            blocks = [_block_numbers(*pair) for pair in zip(segments, (self.outputs, self.inputs), strict=True)]
            rows, columns = (nn.functional.one_hot(numbers).double() for numbers in blocks)
            sums = torch.einsum("oit,or,ic->rct", magnitude, rows, columns)
            means = sums / (rows.sum(0)[:, None, None] * columns.sum(0)[None, :, None])
            pruned = torch.zeros(means.numel(), dtype=torch.bool)
            pruned[means.flatten().argsort(stable=True)[: round(sparsity * means.numel())]] = True
            kept = ~pruned.view(means.shape)[blocks[0]][:, blocks[1]].view(weight.shape)
            self.kept[name] = kept & self.kept[name].cpu() if name in self.kept else kept

    @torch.no_grad()
    def _apply(self, module: TrainingModule) -> None:
        networks = [module.network] if module.averaged is None else [module.network, module.averaged.module]
        for name, kept in self.kept.items():
            self.kept[name] = kept = kept.to(module.device)
            for network in networks:
                network.get_parameter(name).masked_fill_(~kept, 0)


def _layer_weights(network: nn.Module) -> Iterator[tuple[str, Tensor, tuple[Sequence[int], Sequence[int]]]]:
    """Name and weight of each product of the gated layers, and the segments of outputs and inputs that blocks divide.

    The compiled loop cuts hidden channels into two halves, and begins a block with each half of the tanh and of the
    sigmoid.
    """
    for prefix, block in network.named_modules():
        if not isinstance(block, GatedBlock) or not isinstance(block.conv, DilatedConv):
            continue
        channels, gates = block.conv.weight.shape[1], block.conv.weight.shape[0]
        halves = [-(-gates // 4), gates // 2 - -(-gates // 4)]
        for part, segments in (
            ("conv", ([*halves, *halves], [channels])),
            ("condition", ([*halves, *halves], None)),
            ("residual", (None, halves)),
            ("skip", (None, halves)),
        ):
            layer = getattr(block, part)
            if layer is not None:
                shape = layer.weight.shape
                complete = tuple(given or [size] for given, size in zip(segments, shape, strict=False))
                yield f"{prefix}.{part}.weight".removeprefix("."), layer.weight, complete


def _block_numbers(segments: Sequence[int], size: int) -> Tensor:
    """The number of the block of each channel; a block ends with its segment."""
    numbers, first = [], 0
    for length in segments:
        numbers.append(torch.arange(length) // size + first)
        first += -(-length // size)
    return torch.cat(numbers)


def _owner(module: TrainingModule, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return module.network.get_submodule(path), attribute
