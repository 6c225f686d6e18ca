"""The seconds of training steps and of their parts, from the marks that Lightning's profiler hooks set in a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pytorch_lightning.profilers import Profiler
from rich.console import Console
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from cacsnet.network.unet import MultiBranchUNet
from cacsnet.training.run import train_stage
from cacsnet.training.stream import PatchSource

WARM_UP = 2
"""Steps at the start of a run that don't count: the worker starts, memory is taken."""

NEXT, STEP, BACKWARD, OPTIMIZER = "train_dataloader_next", "training_step", "backward", "optimizer_step"
"""Lightning's names of what it profiles, without the class."""

Steps = list[dict[str, float]]


class Clock(Profiler):
    """Seconds of each step, from its call for a batch to the next step's, and of its parts.

    Args:
        device: cpu or cuda. A GPU is waited for where a step begins.
        each: wait for it at every mark, which the parts need and which makes a step slower.
    """

    def __init__(self, device: str, each: bool = False) -> None:
        super().__init__()
        self.device, self.each = device, each
        self.begun: list[float] = []
        self.lasted: Steps = []
        self._since: dict[str, float] = {}

    def now(self, wait: bool) -> float:
        if wait and self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def start(self, action_name: str) -> None:
        name = action_name.rpartition(".")[2]
        if name == NEXT:
            self.begun.append(self.now(True))
            self.lasted.append({})
        if name in (NEXT, STEP, BACKWARD, OPTIMIZER):
            self._since[name] = self.now(self.each)

    def stop(self, action_name: str) -> None:
        name = action_name.rpartition(".")[2]
        if name in self._since:
            self.lasted[-1][name] = self.now(self.each) - self._since.pop(name)

    def network_done(self, module: nn.Module, arguments: Any, result: Any) -> None:
        """Hook of every module's forward: the network's end parts the forward pass from the loss."""
        if isinstance(module, MultiBranchUNet) and STEP in self._since:
            self.lasted[-1]["forward"] = self.now(self.each) - self._since[STEP]

    def steps(self) -> Steps:
        """Parts of each finished step and its ``seconds``, which they add up to. The last step, in which the checkpoint is
        written, has no next one and is left out."""
        return [parts_of(b - a, raw) for a, b, raw in zip(self.begun, self.begun[1:], self.lasted, strict=False)]


def parts_of(seconds: float, raw: Mapping[str, float]) -> dict[str, float]:
    """Parts that add up: Lightning calls the training step and the backward pass inside the optimizer's step."""
    return {
        "seconds": seconds,
        "waiting for the batch": raw[NEXT],
        "forward": raw["forward"],
        "loss": raw[STEP] - raw["forward"],
        "backward": raw[BACKWARD],
        "optimizer": raw[OPTIMIZER] - raw[STEP] - raw[BACKWARD],
        "rest": seconds - raw[NEXT] - raw[OPTIMIZER],
    }


@contextmanager
def network_hook(clock: Clock) -> Iterator[None]:
    handle = register_module_forward_hook(clock.network_done)
    try:
        yield
    finally:
        handle.remove()


def fit(name: str, config: Mapping[str, Any], source: PatchSource, steps: int, device: str, each: bool = False) -> Steps:
    """Train ``steps`` steps that count, after the warm-up, and return how long they took."""
    clock = Clock(device, each)
    stage = {**config["stages"][name], "max_steps": WARM_UP + steps + 1}
    values = {**config, "stages": {name: stage}, "trainer": {**config["trainer"], "profiler": clock}}
    with TemporaryDirectory() as folder, network_hook(clock):
        train_stage(name, values, Path(folder), None, Console(quiet=True), source=source)
    return clock.steps()[WARM_UP:]
