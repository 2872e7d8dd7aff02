"""Ranges of rows on several threads, for kernels that release the interpreter lock.

Numba's own `parallel=True` is not used: without TBB it runs on GNU OpenMP, which ends a process
that forks after it (a data loader's worker), or on its work queue, which several Python threads
may not enter at once.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_ELEMENTS_PER_THREAD = 32768  # below this, handing work over costs more than it saves
_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None


# Threads do not live through a fork, so a child process starts a pool of its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def over_rows(kernel: Callable[[int, int], None], rows: int, elements_per_row: int) -> None:
    """Runs `kernel(first, last)` over all rows, on as many threads as PyTorch would use."""
    global _pool
    threads = min(torch.get_num_threads(), rows * elements_per_row // _ELEMENTS_PER_THREAD, rows)
    if threads < 2:
        kernel(0, rows)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(max(os.cpu_count() or 2, 2), thread_name_prefix="wavedil")
    bounds = [rows * i // threads for i in range(threads + 1)]
    others = [_pool.submit(kernel, bounds[i], bounds[i + 1]) for i in range(1, threads)]
    kernel(0, bounds[1])
    for other in others:
        other.result()
