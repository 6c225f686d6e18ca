"""``python train.py experiment=smoke`` end to end, as a user runs it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

from cacsnet.inference.run import main as infer
from cacsnet.io import write_dicom_series
from cacsnet.network.checkpoint import load_model, network_input

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def train(*overrides, **environment):
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "experiment=smoke",
        "progress=false",
        "trainer.accelerator=cpu",
        *overrides,
    ]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "smoke"
    done = train(f"output={output}")
    assert done.returncode == 0, done.stderr
    return output


def step_of(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["global_step"]


def test_a_model_that_loads_is_exported(smoke):
    model = load_model(smoke / "cacsnet.safetensors")
    assert model.coarse.config.in_channels == 1
    assert model.fine.config.in_channels == 9
    for stage in (model.coarse, model.fine):
        hu = torch.zeros(1, 32, 32, 32)
        context = torch.rand(1, 8, 32, 32, 32) if stage.config.in_channels == 9 else None
        out = stage.network(network_input(hu, stage.config.hu_window, context))
        assert all(torch.isfinite(v).all() for v in out)


def test_the_card_says_what_was_done(smoke):
    card = json.loads((smoke / "cacsnet.json").read_text())
    assert card["name"] == "smoke"
    assert set(card["training"]) == set(card["stages"]) == {"coarse", "fine"}
    for facts in card["training"].values():
        assert facts["steps"] == 4
        assert facts["validation"]["step"] == 4
        assert (facts["weights"], facts["weights_step"], facts["ema_decay"]) == ("best", 4, 0.998)
        assert facts["data"]["patches"]["patch"] == 32
    assert "phantom" in card["trained_on"]
    assert "not a medical device" in card["intended_use"]


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_checkpoints_and_logs_are_kept(smoke, stage):
    checkpoint = torch.load(smoke / stage / "last.ckpt", weights_only=True)  # nothing but tensors and plain values
    assert checkpoint["global_step"] == 4
    assert checkpoint["hyper_parameters"]["model"]["patch"] == 32
    log = pd.read_csv(smoke / stage / "csv" / "metrics.csv")
    assert "scans/agreement" in log.columns
    assert log["val/agreement"].notna().sum() == 1
    assert any((smoke / stage / "tensorboard").iterdir())


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_the_averaged_weights_of_the_best_checkpoint_are_exported(smoke, stage):
    state = torch.load(smoke / stage / "best.ckpt", weights_only=True)
    exported = getattr(load_model(smoke / "cacsnet.safetensors"), stage).network.state_dict()
    assert all(torch.equal(state["state_dict"][f"network.{key}"], value) for key, value in exported.items())
    assert any(not torch.equal(state["current_model_state"][f"network.{key}"], value) for key, value in exported.items())


def test_inference_runs_with_the_model(smoke, small_case, tmp_path):
    """Four steps teach nothing: any typed outcome is fine, a crash is not."""
    write_dicom_series(small_case.scan, tmp_path / "in" / "a", patient_id="P")
    command = {
        "input": str(tmp_path / "in"),
        "output": str(tmp_path / "out"),
        "checkpoint": str(smoke / "cacsnet.safetensors"),
        "device": "cpu",
    }
    assert infer(command, console=Console(quiet=True)) in (0, 3)
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert list(scores["status"]) in (["ok"], ["flagged"], ["failed"])
    if scores["status"][0] == "failed":
        assert pd.isna(scores["agatston_total"][0])
        failures = pd.read_csv(tmp_path / "out" / "failures.csv")
        assert failures["error"][0] != "error"


def test_training_goes_on_where_it_stopped(smoke):
    """Must be the last test with ``smoke``: it trains on."""
    before = step_of(smoke / "coarse")
    steps = ("stages.coarse.max_steps=6", "stages.fine.max_steps=6")
    done = train(f"output={smoke}", "ckpt_path=last", "validation.size=0", *steps)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(\w+) stage: 6 steps,\s+resuming", done.stdout) == ["coarse", "fine"]
    assert (before, step_of(smoke / "coarse"), step_of(smoke / "fine")) == (4, 6, 6)
    schedule = torch.load(smoke / "coarse" / "last.ckpt", weights_only=True)["lr_schedulers"][0]
    assert schedule["last_epoch"] == 6
    facts = json.loads((smoke / "cacsnet.json").read_text())["training"]["coarse"]
    assert (facts["steps"], facts["weights"], facts["weights_step"]) == (6, "last", 6)


TINY = ("~stages.fine", "stages.coarse.max_steps=2", "stages.coarse.data.length=2")


def test_a_fine_stage_is_trained_on_a_coarse_one_that_is_kept(smoke, tmp_path):
    """Its weights come out as they went in, with what the card said of them; the fine ones move."""
    start = smoke / "cacsnet.safetensors"
    few = ("stages.fine.max_steps=1", "validation.size=0")
    done = train("~stages.coarse", f"output={tmp_path}", f"start_from={start}", *few)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "coarse").exists()
    before, after = load_model(start), load_model(tmp_path / "cacsnet.safetensors")
    old, new = (model.coarse.network.state_dict() for model in (before, after))
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert after.card["training"]["coarse"] == {**before.card["training"]["coarse"], "kept_from": before.sha256}
    old, new = (model.fine.network.state_dict() for model in (before, after))
    assert not all(torch.equal(old[name], new[name]) for name in old)


def test_a_grid_of_runs_has_a_folder_for_each(tmp_path):
    grid = ("optimizer.lr=1e-3,2e-3", f"output={tmp_path}", f"stages.coarse.data.cache_dir={tmp_path / 'patches'}")
    done = train(*grid, *TINY, "validation.size=0", "-m")
    assert done.returncode == 0, done.stderr
    for job, lr in enumerate((1e-3, 2e-3)):
        assert OmegaConf.load(tmp_path / str(job) / "config.yaml").optimizer.lr == lr
        card = json.loads((tmp_path / str(job) / "cacsnet.json").read_text())
        assert card["training"]["coarse"]["optimizer"]["lr"] == lr
    first, second = (load_model(tmp_path / name / "cacsnet.safetensors").sha256 for name in "01")
    assert first != second


def test_a_search_trains_three_trials(tmp_path):
    command = [
        sys.executable, "-m", "cacsnet.training.sweep", "hparams_search=optimizer", "trials=3", f"output={tmp_path}",
        "experiment=smoke", "progress=false", "trainer.accelerator=cpu", "logger.names=[]", *TINY,
        f"stages.coarse.data.cache_dir={tmp_path / 'patches'}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    trials = pd.read_csv(tmp_path / "trials.csv")
    assert list(trials["state"]) == ["COMPLETE"] * 3
    assert trials["params_optimizer.lr"].nunique() == 3
    assert np.isfinite(trials["value"]).all()
    for number in range(3):
        card = json.loads((tmp_path / f"{number:04d}" / "cacsnet.json").read_text())
        assert card["training"]["coarse"]["optimizer"]["lr"] == pytest.approx(trials["params_optimizer.lr"][number])
        assert card["training"]["coarse"]["validation"]["agreement"] == pytest.approx(trials["value"][number])


def test_wandb_logs_offline(tmp_path):
    done = train(
        f"output={tmp_path / 'run'}", "logger=wandb", "validation.size=0", "~stages.fine", "stages.coarse.max_steps=1",
        "stages.coarse.data.length=1", WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run" / "coarse").rglob("*.wandb"))
    assert (tmp_path / "run" / "cacsnet.safetensors").is_file()


def test_a_bad_command_ends_with_one_line_and_code_two(tmp_path):
    done = train(f"output={tmp_path}", "+stages.coarse.data.patches.colour=3")
    assert done.returncode == 2
    assert "colour" in done.stderr
    assert "Traceback" not in done.stderr
