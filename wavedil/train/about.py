"""``about.json`` and ``validation.json`` of a run: facts and details of the saved model's validation, for its page."""

import json
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning as L
import torch

from wavedil import __version__
from wavedil.audio.data.captures import Findings
from wavedil.core.cost import count_parameters, zero_share
from wavedil.errors import count_text
from wavedil.outputs import BestEffort
from wavedil.train.module import TrainingModule
from wavedil.writing import atomic_write

PACKAGES = ("torch", "lightning", "numpy", "numba", "triton")


def write_about(trainer: L.Trainer, module: TrainingModule) -> None:
    """Writes ``about.json``: model, data, machine and versions."""
    network, data = module.network, trainer.datamodule
    field, rate = getattr(network, "receptive_field", None), getattr(network, "sample_rate", None)
    facts = {
        "model": module.summary(),
        "data": data.summary() if hasattr(data, "summary") else type(data).__name__,
        "parameters": f"{count_parameters(network):,}",
        "sample_rate": rate,
        "machine": _machine(module.device, trainer.world_size),
        "versions": _versions(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    if isinstance(findings := getattr(data, "findings", None), Findings):
        facts |= {"findings": findings.lines, "noise_floor": findings.noise_floor}
    if isinstance(field, int) and isinstance(rate, int | float) and rate:
        facts["receptive_field"] = f"{field} samples = {1000 * field / rate:.1f} ms at {rate} Hz"
    elif isinstance(field, tuple):
        facts["receptive_field"] = f"{' x '.join(map(str, field))} voxels"
    elif field is not None:
        facts["receptive_field"] = f"{field} {'pixels' if hasattr(network, 'output_stride') else 'steps'}"
    if hasattr(network, "label_scheme"):
        scheme = network.label_scheme
        facts |= {"classes": list(scheme.classes), "colors": [list(color) for color in scheme.colors]}
    _write(Path(trainer.default_root_dir) / "about.json", facts)


def write_validation(trainer: L.Trainer, module: TrainingModule) -> None:
    """Writes ``validation.json``: step and details of the validation of the saved model."""
    path = Path(trainer.default_root_dir) / "validation.json"
    zeros = zero_share(module.eval_network)
    _write(path, {"step": trainer.global_step, "zero_weights": zeros, **module.validation_details()})


def _write(path: Path, value: dict[str, Any]) -> None:
    with BestEffort(path), atomic_write(path) as beside:
        beside.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")


def _machine(device: torch.device, processes: int) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    threads = count_text(torch.get_num_threads(), "thread")
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, {threads}"
    return f"{device.type}: {name}; {system}" + (f"; {processes} processes" if processes > 1 else "")


def _versions() -> dict[str, str]:
    versions = {"wavedil": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
