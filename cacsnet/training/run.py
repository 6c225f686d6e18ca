"""``python train.py``: train the stages in turn, keep resumable checkpoints, export one model for ``infer.py``."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from rich.console import Console
from torch import Tensor

import cacsnet
from cacsnet.data.module import PhantomData
from cacsnet.errors import ConfigError
from cacsnet.network.checkpoint import Stage, StageConfig, save_model
from cacsnet.training.module import StageModule
from cacsnet.training.validation import ScoreValidation

STAGES = ("coarse", "fine")


def loggers(config: Mapping[str, Any], folder: Path) -> list[Logger]:
    """csv and tensorboard by default; wandb (offline unless said otherwise) when asked for."""
    out: list[Logger] = []
    for name in config["names"]:
        if name == "csv":
            out.append(CSVLogger(str(folder), name="csv", version=""))
        elif name == "tensorboard":
            out.append(TensorBoardLogger(str(folder), name="tensorboard", version=""))
        elif name == "wandb":
            out.append(WandbLogger(save_dir=str(folder), project=config["project"], offline=config["offline"]))
        else:
            raise ConfigError("unknown logger; known are csv, tensorboard, wandb", field="logger.names", value=name)
    return out


def train_stage(
    name: str, config: Mapping[str, Any], folder: Path, coarse: Stage | None, console: Console
) -> tuple[StageModule, ScoreValidation, dict[str, Any]]:
    """Train (or resume) one stage; its checkpoints and logs lie in ``folder``."""
    values = config["stages"][name]
    if config["ckpt_path"] not in (None, "last"):
        raise ConfigError("must be null or last", field="ckpt_path", value=config["ckpt_path"])
    pl.seed_everything(int(config["seed"]) + STAGES.index(name), workers=True, verbose=False)
    module = StageModule(values["model"], config["loss"], config["optimizer"], bool(config["channels_last"]))
    data = PhantomData(**values["data"], seed=int(config["seed"]))
    for key in ("spacing_mm", "patch"):
        in_data, in_model = getattr(data.settings, key), getattr(module.stage, key)
        if in_data != in_model:
            message = f"the model and its patches ({in_data}) differ"
            raise ConfigError(message, field=f"stages.{name}.model.{key}", value=in_model)
    validation = ScoreValidation(**config["validation"])
    validation.coarse = coarse
    checkpoint = ModelCheckpoint(
        dirpath=folder, save_last=True, save_top_k=0, every_n_train_steps=int(config["checkpoint_every_steps"])
    )
    callbacks: list[Callback] = [checkpoint, validation]
    if config["progress"]:
        callbacks.append(RichProgressBar())
    trainer_values = dict(config["trainer"])
    trainer = pl.Trainer(
        **trainer_values,
        max_steps=int(values["max_steps"]),
        logger=loggers(config["logger"], folder),
        callbacks=callbacks,
        default_root_dir=str(folder),
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_progress_bar=bool(config["progress"]),
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
    )
    last = folder / "last.ckpt"
    resume = str(last) if config["ckpt_path"] == "last" and last.exists() else None
    console.print(f"[bold]{name}[/] stage: {values['max_steps']} steps" + (f", resuming {last}" if resume else ""))
    start = time.time()
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    facts = {
        "steps": int(trainer.global_step),
        "patches": int(trainer.global_step) * data.batch_size * trainer.accumulate_grad_batches,
        "distinct_patches": data.length,
        "minutes_last_run": round((time.time() - start) / 60, 1),
        "device": str(module.device),
        "validation": validation.history[-1] if validation.history else None,
    }
    return module, validation, facts


def main(config: Mapping[str, Any], console: Console | None = None) -> Path:
    """Train all stages of ``config["stages"]`` and export ``<output>/cacsnet.safetensors`` with its card.

    Returns:
        Path of the exported weights.
    """
    console = console or Console()
    output = Path(str(config["output"]))
    torch.set_float32_matmul_precision("high")
    trained: dict[str, tuple[StageConfig, dict[str, Tensor]]] = {}
    card: dict[str, Any] = {
        "name": str(config["name"]),
        "cacsnet": cacsnet.__version__,
        "created": datetime.date.today().isoformat(),
        "trained_on": "digital phantom, training split (seeds below 10 000 000); no patient data",
        "seed": int(config["seed"]),
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"),
        "training": {},
        "intended_use": "research; not a medical device",
    }
    coarse: Stage | None = None
    for name in [s for s in STAGES if s in config["stages"]]:
        module, _, facts = train_stage(name, config, output / name, coarse, console)
        trained[name] = (module.stage, module.network.state_dict())
        card["training"][name] = {**facts, **module.describe(), "data": config["stages"][name]["data"]}
        coarse = Stage(module.stage, module.network.eval()) if name == "coarse" else coarse
    if "coarse" not in trained:
        raise ConfigError("a model needs a coarse stage", field="stages", value=list(config["stages"]))
    path = save_model(output / "cacsnet.safetensors", trained, card)
    console.print(f"exported {path} and {path.with_suffix('.json')}")
    return path
