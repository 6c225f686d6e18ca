"""A run of seconds: a network of a thousand weights on made-up patches. As a script, one run for two processes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from rich.console import Console
from torch.utils.data import Dataset

from cacsnet.labels import IGNORE
from cacsnet.training.run import train_stage

SIDE = 8
MODEL = {"spacing_mm": 3.0, "patch": SIDE, "widths": [2, 4]}
LENGTH = 5  # odd, so that batches straddle the shuffles


class MadeUpPatches(Dataset):
    """Each (epoch, index) gives its own patch; every second one knows no structures, every third no points."""

    epoch = 0

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([7, self.epoch, index])
        shape = (SIDE, SIDE, SIDE)
        patch = {
            "hu": rng.normal(60, 60, shape).astype(np.float32),
            "structures": rng.integers(0, 8, shape).astype(np.uint8),
            "course": rng.integers(0, 5, shape).astype(np.uint8),
            "points": rng.uniform(0, SIDE - 1, (6, 3)).astype(np.float32),
            "point_label": np.array([1, 2, 0, 0, 0, 0], np.uint8),
            "point_group": np.array([0, 0, 1, 2, 2, IGNORE], np.uint8),
        }
        if index % 2:
            patch["structures"][:] = IGNORE
        if index % 3 == 2:
            patch["point_group"][:] = IGNORE
        return {key: torch.from_numpy(value) for key, value in patch.items()}


def source(batch_size: int = 2, workers: int = 0) -> SimpleNamespace:
    return SimpleNamespace(patches=MadeUpPatches(), batch_size=batch_size, workers=workers)


def config(max_steps: int = 6, **changes: object) -> dict:
    trainer = {"accelerator": "cpu", "devices": 1, "gradient_clip_val": 5.0, "log_every_n_steps": 1}
    values = {
        "stages": {"coarse": {"model": MODEL, "max_steps": max_steps}},
        "loss": {}, "optimizer": {"lr": 1e-2, "warmup_steps": 2}, "logger": {"names": ["csv"]},
        "validation": {"size": 0, "matrix": 64, "every_steps": 0}, "seed": 3, "ckpt_path": None, "channels_last": True,
        "checkpoint_every_steps": 2, "stop_at_step": None, "start_from": None, "ema_decay": 0.9, "compile": None,
        "progress": False,
    }  # fmt: skip
    values["trainer"] = trainer | changes.pop("trainer", {})
    stage = values["stages"]["coarse"]
    stage["model"] = MODEL | changes.pop("model", {})
    return values | changes


def run(folder: Path, values: dict, batch_size: int = 2, workers: int = 0, report=None):
    """(module, facts) of a run."""
    torch.set_num_threads(1)
    module, _, facts = train_stage("coarse", values, folder, None, Console(quiet=True), report, source(batch_size, workers))
    return module, facts


if __name__ == "__main__":
    run(Path(sys.argv[1]), config(3, trainer={"devices": 2, "strategy": "ddp"}), batch_size=1)
