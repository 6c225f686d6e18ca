"""Callbacks of a run: the averaged weights, the last checkpoint, the validation that chooses the best one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint, RichProgressBar, WeightAveraging
from torch import Tensor

from cacsnet.training.validation import ScoreValidation

Report = Callable[[int, float], None]
"""Takes a step and its ``val/agreement``; may raise to end the run (a search does that)."""


def averaging(decay: float) -> WeightAveraging:
    """Exponential moving average of the weights by Lightning's callback; its share of the old average is
    min(decay, (1 + n) / (10 + n)) at the n-th update.

    Without that start (Lightning's own ``EMAWeightAveraging``), the average of a run of a few hundred steps would be mostly its
    first, untrained weights.
    """

    def average(old: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
        n = torch.as_tensor(updates, device=old.device)
        share = ((1 + n) / (10 + n)).clamp_max(decay).to(old.dtype)
        return old + (1 - share) * (new - old)

    return WeightAveraging(avg_fn=average)


@contextmanager
def averaged_weights(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """The module holds the averaged weights inside; nothing happens in a run without an average."""
    found = [c for c in trainer.callbacks if isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
    for callback in found:
        callback.on_validation_epoch_start(trainer, module)  # swaps
    try:
        yield
    finally:
        for callback in found:
            callback.on_validation_epoch_end(trainer, module)


def step_done(trainer: pl.Trainer, batch_index: int) -> bool:
    """Whether an optimizer step ended with this batch (with accumulated gradients, only every n-th batch does)."""
    return (batch_index + 1) % trainer.accumulate_grad_batches == 0


class KeepLast(Checkpoint):
    """``last.ckpt`` every ``every_steps`` optimizer steps and where the run stops.

    Not ModelCheckpoint's ``save_last``: that one may save after the average has replaced the weights at the end of training,
    and such a checkpoint can't be gone on from exactly.

    ``stop_at_step`` ends the run there, without changing the length of its schedule.
    """

    def __init__(self, folder: Path, every_steps: int, stop_at_step: int | None = None) -> None:
        self.path, self.every_steps, self.stop_at_step = folder / "last.ckpt", every_steps, stop_at_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not step_done(trainer, batch_idx):
            return
        step = trainer.global_step
        if self.stop_at_step is not None and step >= self.stop_at_step:
            trainer.should_stop = True
        if trainer.should_stop or step >= trainer.max_steps or step % self.every_steps == 0:
            trainer.save_checkpoint(self.path, weights_only=False)


class Validate(ScoreValidation):
    """Scores the validation scans with the averaged weights every ``every_steps`` steps and after the last one, logs
    ``val/agreement`` and lets ``best`` keep the checkpoint."""

    best: ModelCheckpoint | None = None
    report: Report | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = step >= trainer.max_steps or (self.every_steps and step % self.every_steps == 0)
        if self.size and due and step_done(trainer, batch_idx):
            self.run(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing: the last step was validated when it ended, before its checkpoint was written."""

    def run(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        values: dict[str, float] = {}
        if trainer.is_global_zero:
            with averaged_weights(trainer, pl_module):
                values = super().run(trainer, pl_module)
        values = trainer.strategy.broadcast(values)
        value = values["agreement"]
        for logger in trainer.loggers:
            logger.log_metrics({"val/agreement": value}, step=trainer.global_step)
        trainer.callback_metrics["val/agreement"] = torch.tensor(value)
        if self.best is not None:
            self.best.on_validation_end(trainer, pl_module)
        restart = getattr(pl_module, "restart_clock", None)
        if restart is not None:
            restart()
        if self.report is not None:
            self.report(trainer.global_step, value)
        return values

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]


class StepBar(RichProgressBar):
    """The progress bar of a run whose only epoch has no end."""

    @property
    def total_train_batches(self) -> int | float:
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches
