"""The mean of models: element by element, of the same networks only, with nothing in the card that was measured elsewhere."""

import json

import pytest
import torch

from cacsnet.network.checkpoint import StageConfig, load_model, save_model
from cacsnet.training.average import main

CONFIG = StageConfig(4.0, patch=16, widths=(2, 4))
FINE = StageConfig(2.0, patch=16, widths=(2, 4), in_channels=9)


def written(path, seed, config=CONFIG, fine=None, **card):
    torch.manual_seed(seed)
    stages = {"coarse": (config, config.build().state_dict())}
    stages |= {"fine": (fine, fine.build().state_dict())} if fine else {}
    return save_model(path, stages, {"name": f"model {seed}", **card})


def test_the_mean_is_of_each_weight_of_both_stages(tmp_path):
    paths = [written(tmp_path / f"{seed}.safetensors", seed, fine=FINE, held_out_phantoms={"icc": 1}) for seed in range(3)]
    out = tmp_path / "mean.safetensors"
    assert main([*map(str, paths), f"output={out}"]) == 0
    models, found = [load_model(path) for path in paths], load_model(out)
    for stage in ("coarse", "fine"):
        states = [getattr(model, stage).network.state_dict() for model in models]
        for key, value in getattr(found, stage).network.state_dict().items():
            assert torch.allclose(value, sum(state[key] for state in states) / 3, atol=1e-6)
            assert not torch.equal(value, states[2][key]) or torch.equal(states[0][key], states[2][key])
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["mean_of_weights"] == [model.sha256 for model in models]
    assert card["name"] == "model 2"
    assert "held_out_phantoms" not in card  # measured with other weights


@pytest.mark.parametrize("change", ["network", "stage", "alone", "missing", "output"])
def test_only_the_same_networks_have_a_mean(tmp_path, capsys, change):
    first = written(tmp_path / "a.safetensors", 0)
    second = written(
        tmp_path / "b.safetensors", 1, StageConfig(4.0, patch=16, widths=(2, 6)) if change == "network" else CONFIG,
        FINE if change == "stage" else None,
    )  # fmt: skip
    models = {"alone": [first], "missing": [first, tmp_path / "c.safetensors"]}.get(change, [first, second])
    keys = [] if change == "output" else [f"output={tmp_path / 'mean.safetensors'}"]
    assert main([*map(str, models), *keys]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "mean.safetensors").exists()
