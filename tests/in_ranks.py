"""A function in several processes at once that know of each other, as torchrun starts them; forks of this process."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

import lightning_fabric.strategies.ddp  # noqa: F401  # once here, and not in every fork
import pytest
import torch

# Autograd starts threads for all devices that are known at a process's first backward, and then no fork of it may use
# autograd. What tests import and export makes devices known; before that, on a CPU alone, there are none.
torch.ones(1, requires_grad=True).sum().backward()

SIZE = 2


def in_ranks(function: Callable[..., Any], *given: Any, size: int = SIZE, patience: float = 300) -> list[Any]:
    """What `function(*given)` gives on every rank, in their order.

    Raises:
        AssertionError: it raised on a rank, whose traceback is the message; a process ended without a word.
    """
    processes, ears = start(function, *given, size=size)
    try:
        answers = [
            pickle.loads(ear.recv_bytes()) if ear.poll(patience) else ("silent for too long", None) for ear in ears
        ]
    except EOFError:
        raise AssertionError("a rank ended without a word") from None
    finally:
        for process in processes:
            process.kill()
            process.join()
    for failed, _ in answers:
        assert failed is None, failed
    return [answer for _, answer in answers]


def start(function: Callable[..., Any], *given: Any, size: int = SIZE) -> tuple[list[Any], list[Any]]:
    """The processes, and for each what it is heard by."""
    if not hasattr(os, "fork") or not torch.distributed.is_available():
        pytest.skip("needs forks and torch.distributed")
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes, ears = [], []
    for rank in range(size):
        ear, mouth = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(rank, size, port, mouth, function, given), daemon=True)
        process.start()
        mouth.close()
        processes.append(process)
        ears.append(ear)
    return processes, ears


def _run(rank: int, size: int, port: int, mouth: Any, function: Callable[..., Any], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        answer = (None, function(*given))
    except BaseException:
        answer = (traceback.format_exc(), None)
    mouth.send_bytes(pickle.dumps(answer))  # by value: tensors would be shared with a process that ends
    mouth.close()
    os._exit(0)
