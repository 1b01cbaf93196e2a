"""Several processes for a test: started afresh, talking through gloo, ended for certain."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LIMIT = 240.0
"""Seconds after which processes are ended and the test fails."""


def leave() -> None:
    """End this process with success once all of them are here, without taking Python down.

    While Python takes itself down, a thread of gloo that drops the last tensor of a barrier asks for the interpreter's lock
    and aborts the process (seen in PyTorch 2.13, in one of ten trainings whose process groups a cycle of objects held).
    """
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _work(rank: int, size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=Path(folder, "meet").as_uri(),
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=60),
    )
    torch.save(function(rank, *args), Path(folder, f"{rank}.pt"))
    leave()


def in_processes(function: Callable[..., Any], folder: Path, *args: Any, size: int = 2) -> list[Any]:
    """What ``function(rank, *args)``, at the top of a module, returned in each of `size` processes."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context: Any = mp.spawn(_work, (size, str(folder), function, args), nprocs=size, join=False)
    end = time.monotonic() + LIMIT
    try:
        while not context.join(timeout=1.0):
            assert time.monotonic() < end, f"the processes did not end within {LIMIT} s"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]
