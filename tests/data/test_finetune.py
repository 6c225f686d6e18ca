"""``python train.py experiment=finetune`` end to end: from the shipped checkpoint, on files with calcium labels alone."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from cacsnet.inference.run import main as infer
from cacsnet.network.checkpoint import load_model

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "checkpoints" / "cacsnet.safetensors"


@pytest.mark.slow
def test_a_shipped_model_is_tuned_on_calcium_labels_and_scores(files, tmp_path):
    manifest = files.manifest("tune.csv", labels_path=[f"{name}_labels.nii.gz" for name in files.names])
    keys = [
        "experiment=finetune", f"data.root={files.root}", f"data.manifest={manifest}", f"output={tmp_path}/run",
        "data.labels={1: RCA, 2: LCX, 3: LAD, 4: LM}", "+data.labels.9=ignore", "+data.labels.20=other",
        f"data.cache_dir={tmp_path}/scans",
        "data.phantom_share=0", "data.heart_checkpoint=null", "stages.coarse.max_steps=2", "stages.fine.max_steps=2",
        "stages.coarse.data.workers=0", "stages.fine.data.workers=0", "stages.coarse.data.batch_size=1",
        "stages.fine.data.batch_size=1", "validation.size=0", "progress=false", "trainer.accelerator=cpu",
    ]  # fmt: skip
    command = [sys.executable, str(ROOT / "train.py"), *keys]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    before, after = load_model(SHIPPED), load_model(tmp_path / "run" / "cacsnet.safetensors")
    assert after.card["trained_on"] == "scans of the manifest tune.csv; started from cacsnet.safetensors"
    for name in ("coarse", "fine"):
        old, new = getattr(before, name) or before.coarse, getattr(after, name)
        change = {key: (value - old.network.state_dict()[key]).abs().max() for key, value in new.network.state_dict().items()
                  if value.shape == old.network.state_dict()[key].shape}  # fmt: skip
        assert 0 < max(change.values()) < 0.01  # moved, by two small steps
    assert all(torch.isfinite(value).all() for value in after.fine.network.state_dict().values())
    command = {"input": str(files.root / manifest), "output": str(tmp_path / "out"), "device": "cpu"}
    assert infer(command | {"checkpoint": str(tmp_path / "run" / "cacsnet.safetensors")}, console=Console(quiet=True)) == 0
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    truth = files.case.reference.total.agatston
    assert list(scores["agatston_total"]) == [pytest.approx(truth, rel=0.5)] * 2  # two steps haven't undone it
