"""``python -m cacsnet.training.evaluate``: what it refuses, what it puts into the card."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from cacsnet.labels import VESSEL_NAMES
from cacsnet.network.checkpoint import StageConfig, load_model, save_model
from cacsnet.training import evaluate as module

SCORES = ("total", *VESSEL_NAMES)


@pytest.fixture
def weights(tmp_path):
    config = StageConfig(4.0, patch=16, widths=(2, 4))
    return save_model(tmp_path / "tiny.safetensors", {"coarse": (config, config.build().state_dict())}, {"name": "tiny"})


@pytest.fixture
def measured(monkeypatch):
    """Scores a little off; no scan is made."""
    asked = SimpleNamespace(seeds=[], shares=[])

    def scores(factor):
        rows = [{f"agatston_{name}": factor * (10.0 + 7.0 * k**2) for name in SCORES} for k in range(12)]
        return pd.DataFrame([{"case_id": str(k), **row} for k, row in enumerate(rows)])

    def evaluate(checkpoint, recipes, mean, settings, workers):
        asked.seeds += [recipe.seed for recipe in recipes]
        asked.shares.append(settings.coarse_share)
        model = scores(1.0).assign(status="ok", seconds=1.0, amount_LAD=2.0, kept_LAD=1.0, named_LAD=1.0)
        model.loc[3, "agatston_total"] += 5.0
        return {"reference": scores(1.0), "model": model, "map": scores(1.5), "all": scores(2.0), "nothing": scores(0.0)}

    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setattr(module, "mean_map", lambda *_, **__: module.MeanMap(None, 0.1))
    return asked


@pytest.mark.parametrize(
    "wrong",
    ["split=test", "heart_model=square", "card=yes", "scans=0", "scans=many", "first=-1", "coarse_share=2", "coarse_share=half",
     "checkpoint=none.safetensors", "colour=red", "card=true split=validation", "card=true coarse_share=1"],
)  # fmt: skip
def test_a_bad_command_is_told_and_nothing_is_measured(wrong, measured, weights, tmp_path, capsys):
    before = weights.with_suffix(".json").read_bytes()
    assert module.main([f"checkpoint={weights}", f"output={tmp_path / 'out'}", *wrong.split()]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not measured.seeds
    assert not (tmp_path / "out").exists()
    assert weights.with_suffix(".json").read_bytes() == before


def test_the_card_gets_the_figures_of_the_held_out_seeds(measured, weights, tmp_path):
    out = tmp_path / "out"
    command = [f"checkpoint={weights}", f"output={out}", "scans=12", "first=5", "workers=1"]
    assert module.main(command) == 0
    assert "held_out_phantoms" not in load_model(weights).card
    assert measured.seeds == [module.SPLITS["held_out"] + 5 + k for k in range(12)]
    assert module.main([*command, "card=true"]) == 0
    card = load_model(weights).card
    assert card["name"] == "tiny"
    found = card["held_out_phantoms"]
    assert found["command"] == "python -m cacsnet.training.evaluate scans=12 first=5 heart_model=ellipsoid"
    assert found["calcium"]["true_kept"] == 0.5
    total = next(row for row in found["agreement"] if (row["method"], row["vessel"]) == ("model", "total"))
    assert 0.9999 < total["icc_a1"] < 1  # not rounded up to a perfect one
    assert json.loads((out / "agreement.json").read_text())["weights_sha256"] == card["weights_sha256"]
    assert module.main([*command, "card=true", "heart_model=polar"]) == 0
    assert {"held_out_phantoms", "held_out_phantoms_other_heart_model"} <= set(load_model(weights).card)


def test_validation_seeds_are_others(measured, weights, tmp_path):
    assert module.main([f"checkpoint={weights}", f"output={tmp_path}", "split=validation", "scans=3", "coarse_share=1"]) == 0
    assert measured.seeds == [module.SPLITS["validation"] + k for k in range(3)]
    assert measured.shares == [1.0]
