"""Loggers of a run. A run that goes on from a checkpoint continues its logs instead of starting them anew."""

from __future__ import annotations

import csv
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from cacsnet.errors import ConfigError

VALIDATION_PREFIXES = ("val/", "scans/")


def first_process() -> bool:
    """Whether this process writes the files of a run."""
    return getattr(rank_zero_only, "rank", 0) == 0


def loggers(config: Mapping[str, Any], folder: Path, step: int = 0) -> list[Logger]:
    """csv and tensorboard by default; wandb (offline unless said otherwise) when asked for.

    ``step`` > 0: the run goes on from that optimizer step; what was logged later, before an interruption, is dropped.
    """
    out: list[Logger] = []
    for name in config["names"]:
        if name == "csv":
            out.append(_csv(folder, step))
        elif name == "tensorboard":
            out.append(TensorBoardLogger(str(folder), name="tensorboard", version="", purge_step=step or None))
        elif name == "wandb":
            values = {"project": config["project"], "offline": config["offline"], "id": _wandb_id(folder, step)}
            out.append(WandbLogger(save_dir=str(folder), **values, resume="allow"))
        else:
            raise ConfigError("unknown logger; known are csv, tensorboard, wandb", field="logger.names", value=name)
    return out


def log_picture(loggers: Sequence[Logger], name: str, image: np.ndarray, step: int) -> None:
    """Show a picture uint8 [rows, columns, 3] where a logger can: tensorboard and wandb."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step=step)


def _csv(folder: Path, step: int) -> CSVLogger:
    """Lightning's CSVLogger deletes the file it finds: take the rows out before, and give them back."""
    logger = CSVLogger(str(folder), name="csv", version="")
    if first_process():
        rows = kept_rows(folder / "csv" / "metrics.csv", step)
        for left in (folder / "csv").glob("*"):  # else Lightning warns that it deletes them
            left.unlink()
        if rows:
            logger.experiment.metrics.extend(rows)
            logger.save()
    return logger


def kept_rows(path: Path, step: int) -> list[dict[str, Any]]:
    """Rows of a log that belong to the first ``step`` optimizer steps.

    Lightning numbers the rows of training from 0, so row ``step`` is of the step after the checkpoint; a validation is numbered
    by the steps done before it.
    """
    if not step or not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    return [row for row in rows if int(row["step"]) < step + _is_validation(row)]


def _is_validation(row: Mapping[str, str]) -> bool:
    return any(value and key.startswith(VALIDATION_PREFIXES) for key, value in row.items())


def _wandb_id(folder: Path, step: int) -> str:
    """One identifier per run, kept beside its checkpoints, so that a continued run is one run at wandb too."""
    path = folder / "wandb_id.txt"
    if step and path.is_file():
        return path.read_text().strip()
    name = uuid.uuid4().hex[:8]
    if first_process():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(name + "\n")
    return name
