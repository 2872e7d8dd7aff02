"""The base class of all training modules: optimizer, learning-rate schedule, moving average, names of metrics."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from wavedil.core.cost import count_parameters
from wavedil.errors import WavedilError, first_line
from wavedil.renames import upgrade_tensors
from wavedil.train.changes import changes, describe


@dataclass(frozen=True)
class MetricNames:
    """Names of a task's metrics: the columns of ``metrics.csv`` and the labels of the progress line.

    Args:
        train: column of the training loss, times ``scale``.
        unit: unit of that column.
        valid: column of the validation metric. The module logs ``valid_loss`` as ``valid/loss``.
        valid_format: text of the validation metric in the progress line, e.g. ``"mean IoU {:.4f}"``.
        items: plural of the unit that :meth:`TrainingModule.num_items` counts. The last column is
            ``<items>_per_second``.
        scale: factor from the loss to ``unit``.
    """

    train: str
    unit: str
    valid: str
    valid_format: str
    items: str
    scale: float = 1.0

    @property
    def columns(self) -> tuple[str, ...]:
        return "step", "seconds", self.train, self.valid, "learning_rate", f"{self.items}_per_second"

    @property
    def valid_key(self) -> str:
        """Name under which the module logs the validation metric."""
        return self.valid.replace("_", "/", 1)


class TrainingModule(L.LightningModule):
    """Base class of the training modules: trains ``network`` with a learning rate schedule over the budget of the run.

    The learning rate warms up linearly. Over the last ``lr_decay`` of the budget it falls to zero, in proportion to the
    remaining budget to the power ``lr_power``. The budget is ``trainer.max_steps``, ``trainer.max_epochs`` or
    ``trainer.max_time``, whichever ends first, so the decay is also complete if the time limit ends the run.

    With ``ema_decay`` above 0, validation, previews and the saved model use an exponential moving average of the
    weights (Polyak & Juditsky 1992). Its decay per step is ``ema_decay``, or (1 + step) / (10 + step) if that is less.

    Subclasses set the class attributes and implement ``training_step``, ``validation_step``, :meth:`summary` and
    :meth:`num_items`. A subclass that needs the data to build its network does so in ``configure_model``.

    Attributes:
        metric_names: see :class:`MetricNames`.
        previews_class: callback whose arguments are the recipe's ``previews``; None for no previews.
        samples_class: :class:`wavedil.train.previews.Samples` whose arguments are the recipe's ``samples``; None for no
            samples.
        best_metric: logged metric, lower is better; the run saves the model with the best value. None: the last model.
        divergence_factor: a run ends if its loss rises to this many times its lowest level; see
            :class:`wavedil.train.divergence.LossHistory`. ``math.inf``: never.
        rate_scale: factor of the learning rate, 1 unless :class:`wavedil.train.RestartOnDivergence` has lowered it.

    Args:
        optimizer: builds the optimizer from the parameters.
        warmup_steps: steps until the full learning rate.
        lr_decay: fraction of the budget over which the learning rate falls to zero.
        lr_power: exponent of the decay.
        ema_decay: decay of the moving average, e.g. 0.999; 0 for none.
        compile: train with ``torch.compile``; saved files do not depend on it.
    """

    metric_names: MetricNames
    previews_class: type[Callback] | None = None
    samples_class: type | None = None
    best_metric: str | None = None
    divergence_factor: float = 10.0
    network: nn.Module

    def __init__(
        self,
        optimizer: Callable[[Iterable], Optimizer],
        warmup_steps: int,
        lr_decay: float,
        lr_power: float = 1.0,
        ema_decay: float = 0.0,
        compile: bool = False,
    ):
        super().__init__()
        _check_optimizer(optimizer)
        self.make_optimizer, self.warmup_steps = optimizer, warmup_steps
        self.lr_decay, self.lr_power = lr_decay, lr_power
        # Lightning's WeightAveraging cannot replace this: on_train_end overwrites the weights that a longer run would
        # continue from, and a Ctrl-C during validation saves average and weights exchanged.
        self.ema_decay, self.averaged = ema_decay, None
        self.whole = None  # :class:`wavedil.train.sharding.WholeNetwork` if the network is sharded
        self.uses_compile, self._compiled = compile, []  # in a list, since an attribute would be a second network
        self._before_step: tuple[int, list[Tensor]] = (-1, [])  # a step, and the network's buffers before it
        self.updating = False  # between backward and the end of a step: weights and step do not belong together
        self.rate_scale = 1.0
        self.seed = torch.initial_seed()  # set by seed_everything of the recipe

    @property
    def eval_network(self) -> nn.Module:
        """The network to validate and save: the moving average if there is one, else the network in training.

        If parameters are sharded, it has them in validation and in :meth:`complete_network` only.
        """
        if self.whole is not None:
            return self.whole.network
        return self.network if self.averaged is None else self.averaged.module

    @contextmanager
    def complete_network(self) -> Iterator[nn.Module]:
        """:attr:`eval_network` with all its parameters, also if they are sharded: all processes enter together."""
        if self.whole is None or self.whole.is_complete:
            yield self.eval_network
            return
        self.whole.gather()
        try:
            yield self.eval_network
        finally:
            self.whole.release()

    def summary(self) -> str:
        """One line about the network; printed when training starts."""
        raise NotImplementedError

    def num_items(self, batch: dict[str, Tensor]) -> int | Tensor:
        """Number of ``metric_names.items`` in a batch, for the speed of training."""
        raise NotImplementedError

    def validation_details(self) -> dict[str, Any]:
        """Details of the current validation for ``validation.json`` and the page of the run; default: none."""
        return {}

    def call(self, function: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
        """Calls the network in training, or a method of it: always the same one. It is compiled if ``compile`` is set.

        If it cannot be compiled on this machine, a message is printed, and training continues without.
        """
        if not self.uses_compile:
            return function(*args, **options)
        if self._compiled:
            return self._compiled[0](*args, **options)
        compiled = torch.compile(function)
        try:
            result = compiled(*args, **options)
        except Exception as error:  # errors of compilers have many types
            self.uses_compile = False
            result = function(*args, **options)  # raises the network's own errors
            if self.global_rank == 0:
                print(
                    f"compile is true, but torch.compile fails, so it is not used: {first_line(error)}", file=sys.stderr
                )
            return result
        self._compiled.append(compiled)
        return result

    def configure_model(self) -> None:
        """Initializes the network of a new run from its data, and creates the moving average.

        A subclass that builds its network here calls this afterwards.
        """
        trainer = self._trainer  # not the property, which raises an error without a trainer
        if trainer is not None and trainer.training and trainer.ckpt_path is None and trainer.global_step == 0:
            self.initialize(trainer.datamodule)
        if self.ema_decay and self.averaged is None:
            self.averaged = AveragedModel(self.network, multi_avg_fn=self._update_average, use_buffers=True)
            self.averaged.requires_grad_(False)

    def initialize(self, data: L.LightningDataModule | None) -> None:
        """Sets weights of the network from the data of a new run. Not later: then the weights may be sharded."""

    @torch.no_grad()
    def _update_average(self, averages: list[Tensor], values: list[Tensor], updates: Tensor | int) -> None:
        weight = 1 - min(self.ema_decay, (1 + int(updates)) / (10 + int(updates)))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        def closure() -> Any:
            loss = optimizer_closure()  # forward and backward
            self.updating = True
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        self.updating = True
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def parameter_groups(self) -> Iterable[Any]:
        """Parameters or groups for the optimizer. ``lr_scale`` of a group multiplies its learning rate."""
        return self.network.parameters()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.make_optimizer(self.parameter_groups())
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)
        self.optimizer_settings = [
            {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
        ]
        # The clocks of the processes differ: all use the factor of the first process.
        scheduler = LambdaLR(optimizer, lambda step: self.trainer.strategy.broadcast(self.lr_factor()))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_factor(self) -> float:
        """Factor of the learning rate for the next step, 0 to 1."""
        warmup = self.rate_scale * min(1.0, (self.trainer.global_step + 1) / max(1, self.warmup_steps))
        remaining = 1.0 - self.budget_used()
        return warmup * (min(1.0, remaining / self.lr_decay) ** self.lr_power if self.lr_decay > 0 else 1.0)

    def budget_used(self, steps: int = 0) -> float:
        """Fraction of the budget that is used after ``steps`` more steps, 0 to 1: of steps, epochs or time, whichever
        is greatest.
        """
        trainer, used = self.trainer, 0.0
        step = trainer.global_step + steps
        if trainer.max_steps > 0:
            used = step / trainer.max_steps
        elif (trainer.max_epochs or 0) > 0:  # the number of batches is infinite for data without end
            total = trainer.max_epochs * trainer.num_training_batches / trainer.accumulate_grad_batches
            used = step / total if total else 0.0
        for timer in (callback for callback in trainer.callbacks if isinstance(callback, Timer)):
            remaining = timer.time_remaining()
            if remaining is not None:
                elapsed = timer.time_elapsed()
                used = max(used, elapsed / (elapsed + remaining) if remaining > 0 else 1.0)
        return min(used, 1.0)

    def on_train_start(self) -> None:
        self.update_rate()

    def update_rate(self) -> None:
        """Sets learning rate and other settings of the optimizer from the options of this run, also after resuming."""
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, LambdaLR):
            scheduler.base_lrs = [settings["lr"] for settings in self.optimizer_settings]
            factor = self.trainer.strategy.broadcast(self.lr_factor())
            for group, settings in zip(scheduler.optimizer.param_groups, self.optimizer_settings, strict=True):
                group.update(settings, lr=settings["lr"] * factor)

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self._before_step[0] != self.trainer.global_step:
            buffers = [buffer.detach().clone() for buffer in self.network.buffers()]
            self._before_step = self.trainer.global_step, buffers
        # Dropout depends on the seed and the step only, so a resumed run repeats that of an uninterrupted one.
        position = [self.seed, self.trainer.global_step, batch_idx % self.trainer.accumulate_grad_batches]
        torch.manual_seed(int(np.random.SeedSequence([*position, self.trainer.global_rank]).generate_state(1)[0]))

    @torch.no_grad()
    def undo_incomplete_step(self) -> None:
        """Restores the network's buffers if the current step is not complete.

        The forward pass changes the statistics of batch normalization, and a resumed run repeats it.
        """
        step, buffers = self._before_step
        if step == self.trainer.global_step:
            for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(before)

    def on_restart(self) -> None:
        """Called when :class:`wavedil.train.RestartOnDivergence` has restored weights: resets what is carried over."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the network's arguments; refuses weights that are not finite, which would replace a good checkpoint."""
        if not is_finite(self.network):
            raise WavedilError(
                f"the weights are not finite at step {self.trainer.global_step}: training diverged, and the last good "
                "checkpoint is kept; lower the learning rate, or set trainer.precision to 32-true"
            )
        checkpoint["network"] = getattr(self.network, "config", None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Renames tensors of version 0.1, checks that all tensors fit, and drops an incomplete optimizer step.

        Raises:
            WavedilError: the checkpoint belongs to another network, also if all tensors fit.
        """
        # Metadata is not part of the computation, and changes with each validation.
        configs = (checkpoint.get("network"), getattr(self.network, "config", None))
        before, after = ({k: v for k, v in (config or {}).items() if k != "metadata"} for config in configs)
        if found := list(changes(before, after, "network")) if before and after else []:
            raise WavedilError(
                f"the checkpoint does not fit these options: {describe(found)}; resume with the options of the run, or "
                "start a new one"
            )
        checkpoint["state_dict"] = upgrade_tensors(self, checkpoint["state_dict"])
        try:
            self.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise WavedilError(
                "the checkpoint does not fit these options: resume with the options of the run, and with version 0.1 "
                f"if that started it: {reason}"
            ) from None
        # The gradients of an incomplete step are lost, so its batches must not count when the next step is complete.
        accumulated = self.trainer.accumulate_grad_batches
        if accumulated > 1 and "loops" in checkpoint:
            current = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            current.update(dict.fromkeys(current, current["processed"] // accumulated * accumulated))


def is_finite(network: nn.Module) -> bool:
    """Whether all parameters are finite. If they are sharded, all processes call it together."""
    parts = [
        parameter.to_local() if isinstance(parameter, DTensor) else parameter for parameter in network.parameters()
    ]
    # One value to read, because each waits for the device.
    finite = torch.stack([torch.isfinite(part).all() for part in parts]).all().int()
    if any(isinstance(parameter, DTensor) for parameter in network.parameters()):
        dist.all_reduce(finite, dist.ReduceOp.MIN)
    return bool(finite)


def _check_optimizer(make_optimizer: Callable[[Iterable], Optimizer]) -> None:
    """Raises WavedilError if an optimizer rejects its settings, before there is a model or data."""
    try:
        groups = make_optimizer([nn.Parameter(torch.zeros(1, 1))]).param_groups
    except ValueError as error:
        raise WavedilError(f"optimizer: {error}") from None
    for name, value in groups[0].items():
        if isinstance(value, float) and not np.isfinite(value):
            raise WavedilError(f"optimizer: {name} is {value}: expected a finite number")


def describe_network(network: nn.Module) -> str:
    """Size, depth and receptive field of a network for sound."""
    field, rate = network.receptive_field, network.sample_rate
    size, depth = f"{count_parameters(network):,} parameters", getattr(network, "dilations", None)
    if depth is None:  # a recurrent network remembers without an end
        return f"{size}, {type(network).__name__} at {rate} Hz"
    return f"{size}, {len(depth)} layers, receptive field {field} samples = {1000 * field / rate:.1f} ms at {rate} Hz"
