"""The mean of the weights of models that started from each other: often better than each of them (Izmailov et al. 2018,
"Averaging weights leads to wider optima").

``python -m cacsnet.training.average a.safetensors b.safetensors output=c.safetensors``: the card is that of the last one, with
the hashes of all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cacsnet.errors import CacsError, ConfigError
from cacsnet.keys import read_keys
from cacsnet.network.checkpoint import Model, Stage, load_model, save_model


def average(paths: Sequence[Path], output: Path) -> Path:
    """Write the mean of the weights of several models.

    Raises:
        ConfigError: fewer than two models, or not the same networks.
        CheckpointError: a file is no model.
    """
    if len(paths) < 2:
        raise ConfigError("two models or more", field="models", value=[str(path) for path in paths])
    models = [load_model(path) for path in paths]
    stages = {}
    for name in ("coarse", "fine"):
        same = [stage_of(model, name) for model in models]
        configs = {None if stage is None else stage.config for stage in same}
        if len(configs) != 1:
            raise ConfigError(f"their {name} networks differ", field="models", value=[str(path) for path in paths])
        found = [stage for stage in same if stage is not None]
        if found:
            stages[name] = (found[0].config, mean([stage.network.state_dict() for stage in found]))
    card = {key: value for key, value in models[-1].card.items() if key in CARD_KEYS}
    return save_model(output, stages, card | {"mean_of_weights": [model.sha256 for model in models]})


CARD_KEYS = ("name", "cacsnet", "created", "trained_on", "seed", "hardware", "training", "intended_use")
"""What a card says of a training run. What was measured with other weights doesn't hold for the mean."""


def stage_of(model: Model, name: str) -> Stage | None:
    return model.coarse if name == "coarse" else model.fine


def mean(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Element by element."""
    return {key: torch.stack([state[key].float() for state in states]).mean(0) for key in states[0]}


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, or 2 for a bad command."""
    try:
        keys = read_keys([a for a in arguments if "=" in a], {"output": ""})
        if not keys["output"]:
            raise ConfigError("where the mean shall be written", field="output", value="")
        print(f"written to {average([Path(a) for a in arguments if '=' not in a], Path(keys['output']))}")
    except CacsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
