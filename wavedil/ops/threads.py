"""Runs kernels that release the global interpreter lock on ranges of rows in several threads.

Numba's own ``parallel=True`` is not used: without TBB it runs on GNU OpenMP, which terminates a process that forks
afterwards (a data loader's worker), or on its workqueue layer, which several Python threads must not enter at once.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_MIN_ELEMENTS_PER_THREAD = 32768  # with fewer, starting a thread costs more than it saves
_pool: ThreadPoolExecutor | None = None


def _discard_pool() -> None:
    global _pool
    _pool = None


# Threads do not survive a fork, so a child process creates its own pool.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_discard_pool)


def run_in_threads(kernel: Callable[[int, int], None], rows: int, elements_per_row: int) -> None:
    """Calls ``kernel(first, last)`` on ranges that cover all rows, in at most as many threads as PyTorch uses."""
    global _pool
    threads = min(torch.get_num_threads(), rows * elements_per_row // _MIN_ELEMENTS_PER_THREAD, rows)
    if threads < 2:
        kernel(0, rows)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(max(os.cpu_count() or 2, 2), thread_name_prefix="wavedil")
    bounds = [rows * i // threads for i in range(threads + 1)]
    # Inference mode belongs to a thread: without it, a kernel must not change the tensors that the caller made in it.
    call = torch.inference_mode(torch.is_inference_mode_enabled())(kernel)
    others = [_pool.submit(call, bounds[i], bounds[i + 1]) for i in range(1, threads)]
    kernel(0, bounds[1])
    for other in others:
        other.result()
