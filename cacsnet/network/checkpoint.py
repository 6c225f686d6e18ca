"""Weights travel as ``.safetensors`` beside a ``.json`` model card; pickle is never loaded here.

A model is two networks of one class: ``coarse`` finds the heart and its structures, ``fine`` decides on candidate voxels
and takes the coarse structure probabilities as further input channels (a named deviation from the paper's one channel).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cacsnet.errors import CheckpointError
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
        widths, units, branch_levels, norm: see :class:`MultiBranchUNet`.
    """

    spacing_mm: float
    patch: int = 64
    hu_window: tuple[float, float] = (-300.0, 500.0)
    in_channels: int = 1
    widths: tuple[int, ...] = (8, 32, 64, 128)
    units: int = 1
    branch_levels: int = 1
    norm: str = "instance"

    def build(self) -> MultiBranchUNet:
        return MultiBranchUNet(self.in_channels, self.widths, self.units, self.branch_levels, self.norm)


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


def load_model(path: Path, device: torch.device | str = "cpu") -> Model:
    """Load a ``.safetensors`` model and its card.

    Raises:
        CheckpointError: missing file, weights that don't match the card's SHA-256, other label tables, unknown keys.
    """
    path = Path(path)
    card_path = path.with_suffix(".json")
    for needed in (path, card_path):
        if not needed.is_file():
            raise CheckpointError("no such checkpoint file", path=needed)
    if path.suffix != ".safetensors":
        raise CheckpointError("weights must be a .safetensors file", path=path, field="suffix", value=path.suffix)
    card = json.loads(card_path.read_text())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if card.get("weights_sha256") != sha256:
        raise CheckpointError("weights and model card don't belong together", path=path, field="sha256", value=sha256)
    if card.get("labels") != labels_of_tables():
        raise CheckpointError("label tables differ", path=card_path, field="labels", value=card.get("labels"))
    tensors = load_file(path)
    stages: dict[str, Stage] = {}
    for name, fields in card["stages"].items():
        config = StageConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
        network = config.build()
        prefix = f"{name}."
        state = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(f"weights of stage {name!r} don't fit: {error}", path=path) from error
        stages[name] = Stage(config, network.eval().to(device))
    return Model(stages["coarse"], stages.get("fine"), card, sha256)
