"""Ranges of the trainer's options and of the seed, which Lightning does not check, or only after work was done."""

import re
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
#: Durations: days, hours, minutes, seconds.
_DURATION = re.compile(r"(\d+):(\d\d):(\d\d):(\d\d)")


def check_trainer(values: dict[str, Any]) -> None:
    """Checks values by key, e.g. ``{"trainer.max_steps": 700}``.

    Raises:
        WavedilError: a value is outside its range, or a time that is not ``dd:hh:mm:ss``.
    """
    for key, hint in RANGES.items():
        if key in values:
            check(key, values[key], hint)
    for key in ("trainer.max_time", "trainer.val_check_interval"):
        value = values.get(key)
        if isinstance(value, str):
            found = _DURATION.fullmatch(value)
            if not found or not any(map(int, found.groups())):
                raise WavedilError(
                    f"{key} is {shown(value)}: expected a time above 0 as dd:hh:mm:ss, e.g. 00:00:03:00 for 3 minutes"
                )
        elif key == "trainer.max_time" and isinstance(value, int | float):
            raise WavedilError(f"{key} is {shown(value)}: expected a time as dd:hh:mm:ss, e.g. 00:00:03:00")
