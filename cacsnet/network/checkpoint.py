"""Weights travel as ``.safetensors`` beside a ``.json`` model card; pickle is never loaded here.

A model is two networks of one class: ``coarse`` finds the heart and its structures, ``fine`` decides on candidate voxels
and takes the coarse structure probabilities as further input channels (a named deviation from the paper's one channel).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cacsnet.errors import CheckpointError, ConfigError
from cacsnet.labels import STRUCTURES, VESSELS
from cacsnet.network.unet import MultiBranchUNet


@dataclass(frozen=True)
class StageConfig:
    """How one network is built and how its input is made.

    Attributes:
        spacing_mm: isotropic voxel size of a patch.
        patch: voxels a side.
        hu_window: HU mapped to -1 and +1; values outside are clipped.
        in_channels: 1, or 1 + 8 when the coarse structure probabilities are further channels.
        widths, units, branch_levels, norm, separate_course: see :class:`MultiBranchUNet`.
    """

    spacing_mm: float
    patch: int = 64
    hu_window: tuple[float, float] = (-300.0, 500.0)
    in_channels: int = 1
    widths: tuple[int, ...] = (8, 32, 64, 128)
    units: int = 1
    branch_levels: int = 1
    norm: str = "instance"
    separate_course: bool = True

    def build(self) -> MultiBranchUNet:
        return MultiBranchUNet(self.in_channels, self.widths, self.units, self.branch_levels, self.norm, self.separate_course)


def stage_config(values: Mapping[str, Any]) -> StageConfig:
    """Stage configuration from plain values (YAML, JSON); an unknown or missing key raises ConfigError."""
    known = [f.name for f in fields(StageConfig)]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key; known are {', '.join(known)}", field="model", value=key)
    if "spacing_mm" not in values:
        raise ConfigError("the stage's voxel size is missing", field="model.spacing_mm")
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return StageConfig(**plain)


@dataclass(frozen=True)
class Stage:
    """A network in evaluation mode with its configuration."""

    config: StageConfig
    network: MultiBranchUNet


@dataclass(frozen=True)
class Model:
    """What ``infer.py`` runs: the coarse and the fine stage, the model card, and the SHA-256 of the weights file."""

    coarse: Stage
    fine: Stage | None
    card: dict
    sha256: str


def network_input(hu: Tensor, hu_window: tuple[float, float], context: Tensor | None = None) -> Tensor:
    """HU [B, Z, Y, X] (and context [B, 8, Z, Y, X]) to the network's input [B, 1 or 9, Z, Y, X]."""
    low, high = hu_window
    x = ((hu.clamp(low, high) - low) * (2 / (high - low)) - 1)[:, None]
    return x if context is None else torch.cat([x, context.to(x)], dim=1)


def labels_of_tables() -> dict[str, list[str]]:
    return {"vessels": [label.name for label in VESSELS], "structures": [label.name for label in STRUCTURES]}


def save_model(path: Path, stages: dict[str, tuple[StageConfig, dict[str, Tensor]]], card: dict) -> Path:
    """Write ``path`` (.safetensors) and its .json card; each is written under a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}.{key}": value.detach().cpu().float().contiguous()
        for name, (_, state) in stages.items()
        for key, value in state.items()
    }
    temporary = path.with_suffix(".safetensors.tmp")
    save_file(tensors, temporary)
    full = {
        **card,
        "labels": labels_of_tables(),
        "stages": {name: asdict(config) for name, (config, _) in stages.items()},
        "weights_sha256": hashlib.sha256(temporary.read_bytes()).hexdigest(),
    }
    card_temporary = path.with_suffix(".json.tmp")
    card_temporary.write_text(json.dumps(full, indent=2) + "\n")
    os.replace(temporary, path)
    os.replace(card_temporary, path.with_suffix(".json"))
    return path


def update_card(path: Path, **entries: Any) -> None:
    """Replace entries of the card beside the weights ``path``, whole or not at all."""
    card_path = path.with_suffix(".json")
    card = json.loads(card_path.read_text()) | entries
    temporary = card_path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(card, indent=2) + "\n")
    os.replace(temporary, card_path)


def load_model(path: Path, device: torch.device | str = "cpu") -> Model:
    """Load a ``.safetensors`` model and its card.

    Raises:
        CheckpointError: missing or unreadable file, weights that don't match the card's SHA-256, other label tables, unknown
            keys, no coarse stage, weights that don't fit the network.
    """
    path = Path(path)
    card_path = path.with_suffix(".json")
    for needed in (path, card_path):
        if not needed.is_file():
            raise CheckpointError("no such checkpoint file", path=needed)
    if path.suffix != ".safetensors":
        raise CheckpointError("weights must be a .safetensors file", path=path, field="suffix", value=path.suffix)
    try:
        card = json.loads(card_path.read_text())
    except ValueError as error:
        raise CheckpointError(f"the model card can't be read: {error}", path=card_path) from error
    if not isinstance(card, dict):
        raise CheckpointError("the model card must be a JSON object", path=card_path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if card.get("weights_sha256") != sha256:
        raise CheckpointError("weights and model card don't belong together", path=path, field="sha256", value=sha256)
    if card.get("labels") != labels_of_tables():
        raise CheckpointError("label tables differ", path=card_path, field="labels", value=card.get("labels"))
    described = card.get("stages")
    if not isinstance(described, dict) or "coarse" not in described:
        raise CheckpointError("the model card names no coarse stage", path=card_path, field="stages", value=described)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"the weights can't be read: {error}", path=path) from error
    stages: dict[str, Stage] = {}
    for name, values in described.items():
        try:
            config = stage_config(values)
            network = config.build()
        except (ConfigError, TypeError, ValueError) as error:
            raise CheckpointError(f"stage {name!r} can't be built: {error}", path=card_path) from error
        prefix = f"{name}."
        state = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(f"weights of stage {name!r} don't fit: {error}", path=path) from error
        stages[name] = Stage(config, network.eval().to(device))
    return Model(stages["coarse"], stages.get("fine"), card, sha256)
