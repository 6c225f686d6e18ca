"""The LightningModule of one stage (coarse or fine). Hyperparameters are plain values from YAML."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from cacsnet.data.context import simulated_context
from cacsnet.errors import ConfigError
from cacsnet.network.checkpoint import network_input, stage_config
from cacsnet.network.losses import LossWeights, total_loss

OPTIMIZERS = ("adamw", "sgd")


class StageModule(pl.LightningModule):
    """Trains one network.

    Args:
        model: fields of :class:`StageConfig`.
        loss: fields of :class:`LossWeights`.
        optimizer: ``name`` (adamw or sgd), ``lr``, ``weight_decay``, ``warmup_steps``, ``momentum``.
        channels_last: memory format of the convolutions (faster on CPU and on recent GPUs).
        compile: backend of ``torch.compile`` ("inductor"), None for none. The network is compiled in place, so that the
            names of its weights stay.
        seed: of what is random inside a step (the simulated context).
    """

    def __init__(
        self,
        model: dict[str, Any],
        loss: dict[str, Any] | None = None,
        optimizer: dict[str, Any] | None = None,
        channels_last: bool = True,
        compile: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()  # plain dicts only, so that a checkpoint loads with weights_only=True
        self.stage = stage_config(model)
        self.weights = LossWeights(**(loss or {}))
        defaults: dict[str, Any] = {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-2, "warmup_steps": 50}
        self.optimizer_config = defaults | (optimizer or {})
        if self.optimizer_config["name"] not in OPTIMIZERS:
            message = f"must be {' or '.join(OPTIMIZERS)}"
            raise ConfigError(message, field="optimizer.name", value=self.optimizer_config["name"])
        self.network = self.stage.build()
        self.memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's stub lacks it
        self.backend, self.seed = compile, seed
        self._clock: float | None = None
        self._patches = 0

    def setup(self, stage: str) -> None:
        if self.backend is not None:
            self.network.compile(backend=self.backend)

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_index: int) -> None:
        # randomness of a step is a function of its number, so that resuming needs no state of generators
        trainer = self.trainer
        part = batch_index % trainer.accumulate_grad_batches
        number = np.random.SeedSequence([self.seed, trainer.global_step, part, trainer.global_rank]).generate_state(1)[0]
        torch.manual_seed(int(number))
        if self._clock is None:
            self._clock, self._patches = time.perf_counter(), 0

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        context = None
        if self.stage.in_channels > 1:
            context = simulated_context(batch["structures"], self.stage.spacing_mm)
        x = network_input(batch["hu"], self.stage.hu_window, context).contiguous(memory_format=self.memory_format)
        parts = total_loss(self.network(x), batch, self.weights)
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()}, prog_bar=True, on_step=True)
        return parts["loss"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the learning rate of this step and the norm of the gradients before they are clipped."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        self.log_dict({"train/lr": float(optimizer.param_groups[0]["lr"]), "train/grad_norm": norm})

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Tensor], batch_index: int) -> None:
        self._patches += len(batch["hu"]) * self.trainer.world_size
        if self._clock is not None:
            seconds = time.perf_counter() - self._clock
            self.log("train/patches_per_s", self._patches / max(seconds, 1e-9))
            every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by one of Lightning's connectors
            if self.trainer.global_step % every == 0:
                self.restart_clock()

    def restart_clock(self) -> None:
        """Patches per second are counted anew from the next step on: after each logged value, and after a validation."""
        self._clock = None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        config = self.optimizer_config
        # norms and biases are not decayed
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        other = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config["weight_decay"]}, {"params": other, "weight_decay": 0.0}]
        if config["name"] == "adamw":
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=config["lr"])
        else:
            momentum = config.get("momentum", 0.95)
            optimizer = torch.optim.SGD(groups, lr=config["lr"], momentum=momentum, nesterov=True)
        total = max(1, int(self.trainer.estimated_stepping_batches))
        warmup = min(int(config["warmup_steps"]), max(1, total // 5))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def describe(self) -> dict[str, Any]:
        return {"stage": asdict(self.stage), "loss": asdict(self.weights), "optimizer": dict(self.optimizer_config)}
