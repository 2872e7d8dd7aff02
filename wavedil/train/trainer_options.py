"""Ranges of the trainer's options and of the seed, which Lightning does not check, or only after work was done."""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from wavedil.core.schema import Range, check
from wavedil.errors import WavedilError, shown

_MANY = 10**12
_Positive = Annotated[int, Range(1, _MANY)]
_NotNegative = Annotated[int, Range(0, _MANY)]
_Fraction = Annotated[float, Range(0, 1)]
_PositiveFraction = Annotated[float, Range(0, 1, exclude_low=True)]

RANGES: dict[str, Any] = {
    "seed_everything": bool | Annotated[int, Range(0, 2**32 - 1)],
    "trainer.accelerator": Literal["auto", "cpu", "cuda", "gpu", "tpu", "mps"] | dict,
    "trainer.profiler": Literal["simple", "advanced", "pytorch", "xla"] | dict | None,
    "trainer.max_steps": Literal[-1] | _Positive,
    "trainer.max_epochs": Literal[-1] | _Positive | None,
    "trainer.min_steps": _NotNegative | None,
    "trainer.min_epochs": _NotNegative | None,
    "trainer.limit_train_batches": _Positive | _PositiveFraction | None,
    **{f"trainer.limit_{part}_batches": _NotNegative | _Fraction | None for part in ("val", "test", "predict")},
    "trainer.overfit_batches": _NotNegative | _Fraction,
    "trainer.val_check_interval": _Positive | str | dict | None,
    "trainer.check_val_every_n_epoch": _Positive | None,
    "trainer.log_every_n_steps": _Positive | None,
    "trainer.accumulate_grad_batches": _Positive,
    "trainer.gradient_clip_val": Annotated[float, Range(0, 1e12)] | None,
    "trainer.num_nodes": _Positive,
    "trainer.num_sanity_val_steps": Annotated[int, Range(-1, _MANY)] | None,
    "trainer.reload_dataloaders_every_n_epochs": _NotNegative,
    "trainer.enable_progress_bar": Literal[True] | None,  # the progress writes metrics.csv
}
_DURATION = re.compile(r"(\d+):(\d\d):(\d\d):(\d\d)")  # days, hours, minutes, seconds
_AMOUNTS = re.compile(r"(?:\d+(?:\.\d+)?\s*(?:d|h|min|m|s)\s*)+")
_SECONDS = {"d": 86400, "h": 3600, "min": 60, "m": 60, "s": 1}


def parse_duration(key: str, value: Any) -> Any:
    """A duration as Lightning takes it, ``dd:hh:mm:ss``; ``90s``, ``3min`` and ``1h 30min`` are translated.

    Raises:
        WavedilError: a text that is not a duration above 0, or a number without a unit.
    """
    text = value.strip() if isinstance(value, str) else ""
    if _AMOUNTS.fullmatch(text):
        amounts = re.findall(r"([\d.]+)\s*(d|h|min|m|s)", text)
        seconds = round(sum(float(number) * _SECONDS[unit] for number, unit in amounts))
        minutes, hours = seconds // 60, seconds // 3600
        text = f"{hours // 24:02}:{hours % 24:02}:{minutes % 60:02}:{seconds % 60:02}"
    elif value is None or isinstance(value, dict | timedelta):
        return value
    found = _DURATION.fullmatch(text)
    if not found or not any(map(int, found.groups())):
        raise WavedilError(f"{key} is {shown(value)}: expected a time above 0, e.g. 90s, 3min, 1h 30min or 00:00:03:00")
    return text


def check_trainer(values: dict[str, Any]) -> None:
    """Checks values by key, e.g. ``{"trainer.max_steps": 700}``.

    Raises:
        WavedilError: a value is outside its range.
    """
    for key, hint in RANGES.items():
        if key in values:
            check(key, values[key], hint)
