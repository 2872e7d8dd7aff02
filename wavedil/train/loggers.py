"""Loggers that cannot write do not end a training: the first error is logged, and the training goes on."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger

from wavedil.outputs import BestEffort

_METHODS = ("log_metrics", "log_hyperparams", "log_graph", "after_save_checkpoint", "save", "finalize")


def best_effort(logger: Logger) -> BestEffort:
    """The context of everything that a logger writes; the same at each call."""
    if not hasattr(logger, "best_effort"):
        logger.best_effort = BestEffort(logger.log_dir or type(logger).__name__)
    return logger.best_effort


@contextmanager
def loggers_may_fail(trainer: L.Trainer) -> Iterator[None]:
    """Guards the methods that write. Within the context, the threads of TensorBoard print no traceback."""
    for logger in trainer.loggers:
        for name in _METHODS:
            setattr(logger, name, _guarded(logger, getattr(logger, name)))
        with best_effort(logger):
            hasattr(logger, "experiment")  # which creates files
    trainer.loggers = [logger for logger in trainer.loggers if not best_effort(logger).failed]
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        # TensorBoard keeps the error and raises it in the next call.
        if type(arguments.thread).__name__ != "_AsyncWriterThread" or not isinstance(arguments.exc_value, OSError):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _guarded(logger: Logger, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def guarded(*args: Any, **options: Any) -> Any:
        with best_effort(logger):
            return method(*args, **options)

    return guarded
