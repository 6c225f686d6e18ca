"""``python train.py``: train the stages in turn, keep resumable checkpoints, export one model for ``infer.py``."""

from __future__ import annotations

import datetime
import logging
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from rich.console import Console
from torch import Tensor

import cacsnet
from cacsnet.data.module import PhantomData
from cacsnet.errors import ConfigError
from cacsnet.network.checkpoint import Stage, StageConfig, load_model, save_model
from cacsnet.training.callbacks import KeepLast, Report, StepBar, Validate, averaging
from cacsnet.training.logs import first_process, loggers
from cacsnet.training.module import StageModule
from cacsnet.training.stream import PatchSource, PatchStream

STAGES = ("coarse", "fine")


def train_stage(
    name: str,
    config: Mapping[str, Any],
    folder: Path,
    coarse: Stage | None,
    console: Console,
    report: Report | None = None,
    source: PatchSource | None = None,
) -> tuple[StageModule, Validate, dict[str, Any]]:
    """Train (or resume) one stage; its checkpoints and logs lie in ``folder``.

    The module that comes back holds the exported weights: those of ``best.ckpt`` if the run validated, else of ``last.ckpt``;
    averaged ones unless ``ema_decay`` is 0. ``report`` takes each validation; ``source`` replaces the stage's patches.
    """
    values = config["stages"][name]
    if config["ckpt_path"] not in (None, "last"):
        raise ConfigError("must be null or last", field="ckpt_path", value=config["ckpt_path"])
    seed = int(config["seed"])
    pl.seed_everything(seed + STAGES.index(name), workers=True, verbose=False)
    channels_last, backend = bool(config["channels_last"]), config["compile"]
    module = StageModule(values["model"], config["loss"], config["optimizer"], channels_last, backend, seed)
    if source is None:
        data = PhantomData(**values["data"], seed=seed)
        for key in ("spacing_mm", "patch"):
            in_data, in_model = getattr(data.settings, key), getattr(module.stage, key)
            if in_data != in_model:
                message = f"the model and its patches ({in_data}) differ"
                raise ConfigError(message, field=f"stages.{name}.model.{key}", value=in_model)
        source = _with_scans(data, config.get("data"), seed)
    last = folder / "last.ckpt"
    resume = str(last) if config["ckpt_path"] == "last" and last.exists() else None
    if resume is None and config["start_from"]:
        start_weights(module, name, str(config["start_from"]), values.get("start", name))
    if resume is None:  # a new run: nothing of an older one is taken for its result
        for left in ("last.ckpt", "best.ckpt"):
            if first_process():
                (folder / left).unlink(missing_ok=True)
    start_step = int(torch.load(resume, weights_only=True, map_location="cpu")["global_step"]) if resume else 0

    validation = Validate(**config["validation"])
    validation.coarse, validation.report = coarse, report
    callbacks: list[Callback] = [averaging(float(config["ema_decay"]))] if config["ema_decay"] else []
    callbacks += [validation, KeepLast(folder, int(config["checkpoint_every_steps"]), config["stop_at_step"])]
    if validation.size:
        validation.best = ModelCheckpoint(
            folder, "best", monitor="val/agreement", mode="max", enable_version_counter=False, save_on_train_epoch_end=False
        )
        callbacks.append(validation.best)
    if config["progress"]:
        callbacks.append(StepBar())
    trainer = pl.Trainer(
        **config["trainer"],
        max_steps=int(values["max_steps"]),
        logger=loggers(config["logger"], folder, start_step),
        callbacks=callbacks,
        default_root_dir=str(folder),
        num_sanity_val_steps=0,
        enable_progress_bar=bool(config["progress"]),
        enable_model_summary=False,
        use_distributed_sampler=False,  # PatchStream shares the batches out itself
    )
    console.print(f"[bold]{name}[/] stage: {values['max_steps']} steps" + (f", resuming {last}" if resume else ""))
    start = time.time()
    trainer.fit(module, datamodule=PatchStream(source, seed), ckpt_path=resume, weights_only=True)
    per_step = source.batch_size * trainer.accumulate_grad_batches * trainer.world_size
    facts = {
        "steps": int(trainer.global_step),
        "patches": int(trainer.global_step) * per_step,
        "distinct_patches": len(source.patches),
        "minutes_last_run": round((time.time() - start) / 60, 1),
        "device": str(trainer.strategy.root_device),
        "precision": str(trainer.precision),
        "processes": trainer.world_size,
        **load_exported(module, folder, validation),
        "ema_decay": config["ema_decay"] or None,
    }
    return module, validation, facts


def _with_scans(data: PhantomData, scans: Mapping[str, Any] | None, seed: int) -> PatchSource:
    """The stage's patches: phantoms, or what a ``conf/data`` mapping says of real scans."""
    if not scans:
        return data
    from cacsnet.data.real import patches_from

    patches: Any = patches_from(scans, data.settings, seed, phantom=data.patches)
    return SimpleNamespace(patches=patches, batch_size=data.batch_size, workers=data.workers)


def start_weights(module: StageModule, name: str, path: str, start: str | None) -> None:
    """Weights of a shipped checkpoint's stage as the start of a training (optimizer and schedule begin anew).

    Args:
        name: of the stage that is trained.
        start: that of the stage whose weights it gets: its own or ``coarse``; none: a new network. A fine stage that starts
            from the coarse one, as a first one does, is at its own spacing the same function of the CT, blind to its context.
    """
    if start not in (None, name, "coarse"):
        raise ConfigError(f"must be {name}, coarse or null", field=f"stages.{name}.start", value=start)
    if start is None:
        return
    model = load_model(Path(path))
    stage = getattr(model, start)
    if stage is None or start != name:
        stage = _grown(model.coarse, module.stage)
    if replace(stage.config, patch=module.stage.patch) != module.stage:
        message = f"the checkpoint's {name} stage is another network: {stage.config}"
        raise ConfigError(message, field=f"stages.{name}.model", value=module.stage)
    module.network.load_state_dict(stage.network.state_dict())


def _grown(coarse: Stage, wanted: StageConfig) -> Stage:
    """The coarse network at another spacing and with more input channels, whose first weights are zero."""
    config = replace(coarse.config, spacing_mm=wanted.spacing_mm, in_channels=wanted.in_channels)
    network, state = config.build(), coarse.network.state_dict()
    stem = torch.zeros_like(network.stem.weight)
    stem[:, : coarse.config.in_channels] = state["stem.weight"]
    network.load_state_dict({**state, "stem.weight": stem})
    return Stage(config, network)


def kept_stages(config: Mapping[str, Any]) -> tuple[dict[str, Stage], dict[str, Any]]:
    """Stages of ``start_from`` that the run doesn't train: they go into the exported model as they are. And its card."""
    if not config["start_from"]:
        return {}, {}
    model = load_model(Path(str(config["start_from"])))
    stages = {name: getattr(model, name) for name in STAGES if name not in config["stages"]}
    return {name: stage for name, stage in stages.items() if stage is not None}, model.card


def load_exported(module: StageModule, folder: Path, validation: Validate) -> dict[str, Any]:
    """Put the weights that are exported into the module: the best by score agreement, or the last if the run doesn't validate.

    Returns:
        ``weights`` (best or last), ``weights_step`` and ``validation`` (its values, None where nothing was validated).
    """
    kept = folder / "best.ckpt"
    chosen = kept if validation.size and kept.exists() else folder / "last.ckpt"
    state = torch.load(chosen, weights_only=True, map_location="cpu")
    module.load_state_dict(state["state_dict"])
    step = int(state["global_step"])
    values = next((entry for entry in reversed(validation.history) if entry["step"] == step), None)
    plain = None if values is None else {key: value if math.isfinite(value) else None for key, value in values.items()}
    return {"weights": chosen.stem, "weights_step": step, "validation": plain}


def trained_on(config: Mapping[str, Any]) -> str:
    """For the model card: whose scans these weights have seen."""
    phantom = "digital phantom, training split (seeds below 10 000 000)"
    scans = config.get("data")
    if not scans:
        text = f"{phantom}; no patient data"
    else:
        text = f"scans of the manifest {Path(str(scans['manifest'])).name}" + (
            f"; {phantom}" if scans.get("phantom_share") else ""
        )
    return text + (f"; started from {Path(str(config['start_from'])).name}" if config["start_from"] else "")


def main(config: Mapping[str, Any], console: Console | None = None, report: Report | None = None) -> Path:
    """Train all stages of ``config["stages"]`` and export ``<output>/cacsnet.safetensors`` with its card.

    ``report`` takes (step, ``val/agreement``) of each validation, the steps counted on over the stages.

    Returns:
        Path of the exported weights.
    """
    console = console or Console(quiet=not first_process())
    output = Path(str(config["output"]))
    torch.set_float32_matmul_precision("high")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # it says which devices there are, and advertises
    if first_process():
        output.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(dict(config)), output / "config.yaml")
    trained: dict[str, tuple[StageConfig, dict[str, Tensor]]] = {}
    card: dict[str, Any] = {
        "name": str(config["name"]),
        "cacsnet": cacsnet.__version__,
        "created": datetime.date.today().isoformat(),
        "trained_on": trained_on(config),
        "seed": int(config["seed"]),
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"),
        "training": {},
        "intended_use": "research; not a medical device",
    }
    kept, card_before = kept_stages(config)
    if "coarse" not in {**config["stages"], **kept}:
        raise ConfigError("a model needs a coarse stage", field="stages", value=list(config["stages"]))
    for name, stage in kept.items():
        trained[name] = (stage.config, stage.network.state_dict())
        of_stage = card_before.get("training", {}).get(name, {})
        card["training"][name] = {**of_stage, "kept_from": card_before["weights_sha256"]}
    coarse = kept.get("coarse")
    before = 0
    for name in [s for s in STAGES if s in config["stages"]]:
        counted = None if report is None else partial(_report_from, report, before)
        module, _, facts = train_stage(name, config, output / name, coarse, console, counted)
        before += int(config["stages"][name]["max_steps"])
        trained[name] = (module.stage, module.network.state_dict())
        card["training"][name] = {**facts, **module.describe(), "data": config["stages"][name]["data"]}
        coarse = Stage(module.stage, module.network.eval()) if name == "coarse" else coarse
    path = output / "cacsnet.safetensors"
    if first_process():
        save_model(path, trained, card)
    console.print(f"exported {path} and {path.with_suffix('.json')}")
    return path


def _report_from(report: Report, before: int, step: int, value: float) -> None:
    report(before + step, value)
