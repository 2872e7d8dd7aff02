"""``trainer.strategy: fsdp``: each process keeps a part of the parameters, gradients and optimizer state."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from wavedil.errors import WavedilError


class FSDP(DDPStrategy):
    """Fully sharded data parallelism (Zhao et al. 2023, arXiv 2304.11277) by ``torch.distributed.fsdp.fully_shard``.

    All parameters are gathered for each training step, and its gradients are averaged as in DDP. Between the steps each
    of n processes keeps 1/n of parameters, EMA, gradients and optimizer state. Checkpoints and models are
    complete, as those of other strategies. (Lightning's FSDPStrategy needs a GPU and a network that is only called by
    ``forward``; its ModelParallelStrategy loads checkpoints of other strategies with other names of the parameters.)
    """

    strategy_name = "fsdp"

    def setup(self, trainer: L.Trainer) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().setup(trainer)
        else:  # the validation after training: all is in place
            self.accelerator.setup(trainer)

    def configure_ddp(self) -> None:
        module = self.lightning_module
        for name, parameter in module.named_parameters():
            if parameter.ndim == 0:
                raise WavedilError(f"trainer.strategy is fsdp: {name} is a scalar: give it the shape (1,), or use ddp")
            parameter.data = parameter.data.contiguous()  # fully_shard refuses channels_last
        _copy_from_first(*module.parameters(), *module.buffers())
        module.whole = WholeNetwork(module.eval_network)
        # Not the default mesh, which is of the GPU if the machine has one.
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        if module.averaged is not None:
            fully_shard(module.averaged, mesh=mesh)
        fully_shard(module, mesh=mesh)
        register_fsdp_forward_method(module, "training_step")

    def on_validation_start(self) -> None:
        self.lightning_module.whole.gather()

    def on_validation_end(self) -> None:
        self.lightning_module.whole.release()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return for_checkpoint(super().lightning_module_state_dict())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        targets = self.lightning_module.state_dict()
        state = {name: _shard(value, targets.get(name)) for name, value in checkpoint["state_dict"].items()}
        super().load_model_state_dict({"state_dict": state}, strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return for_checkpoint(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        states = []
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            numbers = [number for group in state["param_groups"] for number in group["params"]]
            parts = {
                number: {key: _shard(value, parameter) for key, value in state["state"][number].items()}
                for number, parameter in zip(numbers, parameters, strict=True)
                if number in state["state"]
            }
            states.append(state | {"state": parts})
        super().load_optimizer_state_dict({"optimizer_states": states})

    def teardown(self) -> None:
        # Not Lightning's, which moves the parts to the CPU, where they cannot be gathered for the last checkpoint.
        for part in (self.cluster_environment, self.precision_plugin, self.accelerator, self.checkpoint_io):
            part.teardown()


class WholeNetwork:
    """A copy of a network, made before that is sharded, that has its parameters only where they are needed."""

    def __init__(self, source: nn.Module):
        empty = {id(each): nn.Parameter(each.to("meta"), requires_grad=False) for each in source.parameters()}
        self.source, self.network, self.is_complete = source, copy.deepcopy(source, empty).eval(), False

    def gather(self) -> None:
        """Gathers the parameters; all processes call it together."""
        if not self.is_complete:
            self.network.load_state_dict(_gathered(self.source.state_dict(), lambda whole: whole), assign=True)
            _copy_from_first(*self.network.buffers())  # statistics of batch normalization
        self.is_complete = True

    def release(self) -> None:
        for module in self.network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)
        self.is_complete = False


def for_checkpoint(state: Any) -> Any:
    """A state with complete tensors, on the CPU of the first process only; all processes call it together."""
    return _gathered(state, (lambda whole: None) if dist.is_initialized() and dist.get_rank() else Tensor.cpu)


def _gathered(state: Any, keep: Callable[[Tensor], Any]) -> Any:
    if isinstance(state, DTensor):
        return keep(state.full_tensor())
    if isinstance(state, dict):
        return {key: _gathered(value, keep) for key, value in state.items()}
    return [_gathered(value, keep) for value in state] if isinstance(state, list) else state


@torch.no_grad()
def _copy_from_first(*tensors: Tensor) -> None:
    """Copies tensors of the first process to the others."""
    for tensor in tensors:
        value = tensor.contiguous()
        dist.broadcast(value, 0)
        tensor.copy_(value)


def _shard(value: Any, target: Any) -> Any:
    """The part of a complete tensor that this process keeps, if ``target`` is sharded."""
    if isinstance(target, DTensor) and isinstance(value, Tensor) and value.shape == target.shape:
        if not isinstance(value, DTensor):
            mesh = target.device_mesh
            return distribute_tensor(value.to(target.device), mesh, target.placements, src_data_rank=None)
    return value
