"""Processes that work side by side, one thread each."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process

import torch

from cacsnet.data.memory import keep_memory


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of spawned processes (torch's threads don't survive a fork) that keep their memory and end with their parent,
    also where it is killed: else they would go on writing into a folder that another run has taken over."""
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start)


def _start() -> None:
    torch.set_num_threads(1)
    keep_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
