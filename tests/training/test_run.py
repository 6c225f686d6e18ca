"""Training itself, on a network of a thousand weights: resuming to the bit, averaged weights, logs, several processes."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from rich.console import Console
from tiny_run import LENGTH, MODEL, config, run, source

from cacsnet.errors import ConfigError
from cacsnet.network.checkpoint import StageConfig, save_model
from cacsnet.training.logs import kept_rows
from cacsnet.training.module import StageModule
from cacsnet.training.run import main, start_weights
from cacsnet.training.stream import PatchStream, StepOrder
from cacsnet.training.validation import ScoreValidation

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:.*Checkpoint directory .* exists and is not empty",
    "ignore:.*isinstance.treespec, LeafSpec",
)
CLOCK = "train/patches_per_s"


def checkpoint(folder, name="last"):
    return torch.load(folder / f"{name}.ckpt", weights_only=True)


def log(folder):
    return pd.read_csv(folder / "csv" / "metrics.csv", dtype=str).drop(columns=CLOCK)


def assert_same(a, b, path=""):
    """Equal to the bit, through nested containers."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for number, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{path}/{number}")
    else:
        assert a == b, path


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    module, facts = run(folder, config())
    return folder, module, facts


@pytest.mark.parametrize(
    ("stop", "model", "accumulate", "workers"),
    [(3, {}, 1, 0), (5, {}, 1, 2), (3, {"in_channels": 9}, 2, 0)],
    ids=["mid-shuffle", "workers", "context and accumulated gradients"],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path, straight, stop, model, accumulate, workers):
    """Weights, average, optimizer, schedule and logs equal to the bit. Five patches, two a batch: no step ends a shuffle
    before the fifth."""
    whole = straight[0]
    values = {"model": model, "trainer": {"accumulate_grad_batches": accumulate}}
    if model:
        whole = tmp_path / "whole"
        run(whole, config(**values))
    parts = tmp_path / "parts"
    run(parts, config(**values, stop_at_step=stop, checkpoint_every_steps=100), workers=workers)
    assert checkpoint(parts)["global_step"] == stop
    run(parts, config(**values, ckpt_path="last", checkpoint_every_steps=100))
    a, b = checkpoint(whole), checkpoint(parts)
    for key in ("global_step", "state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert_same(a[key], b[key], key)
    pd.testing.assert_frame_equal(log(whole), log(parts))
    assert list(log(whole)["step"]) == [str(step) for step in range(6)]


def test_what_was_logged_after_the_checkpoint_is_dropped(tmp_path, straight):
    """Interrupted at step 3, the last checkpoint of step 2: the third step is made again and logged once."""
    parts = tmp_path / "parts"
    run(parts, config(stop_at_step=2))
    kept = (parts / "last.ckpt").read_bytes()
    run(parts, config(stop_at_step=3, ckpt_path="last"))
    (parts / "last.ckpt").write_bytes(kept)
    run(parts, config(ckpt_path="last"))
    pd.testing.assert_frame_equal(log(straight[0]), log(parts))


def test_rows_of_validation_are_kept_at_the_step_of_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss,val/agreement\n0,1.0,\n1,0.5,\n2,,0.9\n2,0.4,\n")
    assert [row["step"] for row in kept_rows(path, 2)] == ["0", "1", "2"]
    assert kept_rows(path, 2)[-1]["val/agreement"] == "0.9"
    assert kept_rows(path, 0) == []


def test_a_new_run_takes_nothing_of_an_older_one(tmp_path, straight):
    folder = tmp_path / "run"
    run(folder, config(stop_at_step=1))
    (folder / "best.ckpt").write_text("of another run")
    run(folder, config(checkpoint_every_steps=100))
    assert not (folder / "best.ckpt").exists()
    pd.testing.assert_frame_equal(log(straight[0]), log(folder))


def test_the_average_is_what_is_exported(straight):
    folder, module, facts = straight
    state = checkpoint(folder)
    for name, value in module.state_dict().items():
        assert torch.equal(value, state["state_dict"][name])
    assert any(not torch.equal(state["state_dict"][k], v) for k, v in state["current_model_state"].items())
    assert facts["weights"] == "last"
    assert facts["weights_step"] == 6
    assert facts["ema_decay"] == 0.9
    assert facts["validation"] is None


def test_the_average_follows_its_formula(tmp_path):
    """Weights of each step, averaged by hand with shares min(0.25, (1 + n) / (10 + n))."""
    weights = []
    for step in range(1, 5):
        run(tmp_path / str(step), config(max_steps=4, stop_at_step=step, ema_decay=0.25, checkpoint_every_steps=100))
        weights.append(checkpoint(tmp_path / str(step))["current_model_state"]["network.stem.weight"])
    average = weights[0]
    for n, new in enumerate(weights[1:], start=1):
        share = min(0.25, (1 + n) / (10 + n))
        average = share * average + (1 - share) * new
    found = checkpoint(tmp_path / "4")["state_dict"]["network.stem.weight"]
    assert torch.allclose(found, average, atol=1e-7)
    assert not torch.allclose(found, weights[-1], atol=1e-5)


def test_without_an_average_the_last_weights_are_exported(tmp_path, straight):
    module, facts = run(tmp_path, config(ema_decay=0))
    state = checkpoint(straight[0])["current_model_state"]
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())
    assert facts["ema_decay"] is None


def test_a_finished_run_exports_the_average_again(straight):
    folder, module, _ = straight
    before = {name: value.clone() for name, value in module.state_dict().items()}
    again, facts = run(folder, config(ckpt_path="last"))
    assert facts["steps"] == 6
    assert all(torch.equal(before[name], value) for name, value in again.state_dict().items())


def test_accumulated_gradients_take_several_batches_a_step(tmp_path):
    """The mean of two gradients is that of both only where each knows the same parts, so nothing closer is asked."""
    _, facts = run(tmp_path, config(2, trainer={"accumulate_grad_batches": 3}))
    assert facts["patches"] == 2 * 3 * 2
    assert len(log(tmp_path)) == 2
    assert checkpoint(tmp_path)["averaging_state"]["n_averaged"] == 2


def test_logs_hold_learning_rate_gradient_norm_and_speed(straight):
    rows = pd.read_csv(straight[0] / "csv" / "metrics.csv")
    assert rows["train/lr"].tolist() == pytest.approx([1e-2 * f for f in (1.0, *schedule(6, 1)[1:])])
    assert (rows["train/grad_norm"] > 0).all()
    assert (rows[CLOCK] > 0).all()


def schedule(total, warmup):
    return [
        (step + 1) / warmup if step < warmup else
        0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) for step in range(total)
    ]  # fmt: skip


def test_compiling_keeps_the_names_of_the_weights_and_their_values(tmp_path, straight):
    run(tmp_path, config(compile="eager"))
    assert_same(checkpoint(tmp_path)["state_dict"], checkpoint(straight[0])["state_dict"])


def test_lower_precision_trains(tmp_path, straight):
    _, facts = run(tmp_path, config(2, trainer={"precision": "bf16-mixed"}))
    assert facts["precision"] == "bf16-mixed"
    first, whole = (float(log(folder)["train/loss"][0]) for folder in (tmp_path, straight[0]))
    assert first == pytest.approx(whole, rel=0.02)
    assert first != whole


def test_gradients_are_clipped(tmp_path):
    """One step of plain SGD at a learning rate of 1 moves the weights by the clipped norm."""
    sgd = {"name": "sgd", "momentum": 0.5, "weight_decay": 0.0, "warmup_steps": 1}
    for name, lr in (("moved", 1.0), ("start", 0.0)):
        run(tmp_path / name, config(1, trainer={"gradient_clip_val": 1e-2}, optimizer={**sgd, "lr": lr}))
    moved, start = (checkpoint(tmp_path / name)["current_model_state"] for name in ("moved", "start"))
    distance = math.sqrt(sum(float((moved[name] - start[name]).square().sum()) for name in moved))
    assert float(log(tmp_path / "moved")["train/grad_norm"][0]) > 0.1
    assert distance == pytest.approx(1e-2 * 1.5, rel=1e-3)  # Nesterov's first step is 1 + momentum gradients


def test_checkpoints_hold_plain_values_only(straight):
    def plain(value):
        if isinstance(value, dict):
            return all(plain(k) and plain(v) for k, v in value.items())
        if isinstance(value, (list, tuple)):
            return all(plain(v) for v in value)
        return value is None or type(value) in (int, float, str, bool, torch.Tensor)

    state = checkpoint(straight[0])
    wrong = {key for key, value in state.items() if not plain(value)}
    assert wrong <= {"state_dict", "current_model_state", "loops", "callbacks", "hparams_initial", "optimizer_states"}
    assert plain(dict(state["hyper_parameters"]))
    assert state["hyper_parameters"]["model"]["patch"] == 8


def test_a_shipped_model_is_a_start(tmp_path, straight):
    """With a learning rate of 0, what comes out is what went in; the schedule begins anew."""
    _, module, _ = straight
    path = save_model(tmp_path / "m.safetensors", {"coarse": (module.stage, module.network.state_dict())}, {})
    again, _ = run(tmp_path / "run", config(2, start_from=str(path), optimizer={"lr": 0.0}))
    assert_weights(again.state_dict(), module.state_dict())
    with pytest.raises(ConfigError, match="another network"):
        run(tmp_path / "other", config(2, start_from=str(path), model={"widths": [4, 4]}))


def test_a_first_fine_stage_starts_as_the_coarse_function_of_the_ct(tmp_path, straight):
    """Its context counts for nothing before the first step; another kind of network can't be grown."""
    _, coarse, _ = straight
    path = save_model(tmp_path / "m.safetensors", {"coarse": (coarse.stage, coarse.network.state_dict())}, {})
    fine = StageModule({**MODEL, "spacing_mm": 1.5, "in_channels": 9})
    start_weights(fine, "fine", str(path), "fine")
    hu, context = torch.randn(1, 1, 8, 8, 8), torch.rand(1, 8, 8, 8, 8)
    with torch.no_grad():
        ours, theirs = fine.network.eval()(torch.cat([hu, context], 1)), coarse.network.eval()(hu)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))
    assert float(theirs.structures.std()) > 0
    with pytest.raises(ConfigError, match="another network"):
        start_weights(StageModule({**MODEL, "spacing_mm": 1.5, "widths": [4, 4]}), "fine", str(path), "fine")


def test_where_a_stage_starts_is_chosen(tmp_path, straight):
    """The coarse weights although there are fine ones, or a new network."""
    _, coarse, _ = straight
    other = StageModule({**MODEL, "spacing_mm": 1.5, "in_channels": 9})
    stages = {"coarse": (coarse.stage, coarse.network.state_dict()), "fine": (other.stage, other.network.state_dict())}
    path = str(save_model(tmp_path / "m.safetensors", stages, {}))
    found = {}
    for start in (None, "fine", "coarse"):
        fine = StageModule({**MODEL, "spacing_mm": 1.5, "in_channels": 9})
        before = fine.network.stem.weight.clone()
        start_weights(fine, "fine", path, start)
        found[start] = fine.network.stem.weight
        assert torch.equal(found[start], before) == (start is None)
    assert torch.equal(found["fine"], other.network.stem.weight)
    assert torch.equal(found["coarse"][:, :1], coarse.network.stem.weight)
    with pytest.raises(ConfigError, match="start"):
        start_weights(other, "coarse", path, "fine")


def test_a_model_without_a_coarse_stage_is_refused_before_training(tmp_path):
    values = {**config(), "name": "none", "output": str(tmp_path / "run")}
    values["stages"] = {"fine": values["stages"]["coarse"]}
    with pytest.raises(ConfigError, match="coarse"):
        main(values, Console(quiet=True))
    assert not list((tmp_path / "run").rglob("*.ckpt"))


# ---- validation and the best checkpoint ---------------------------------------------------------------------------------


@pytest.fixture
def scored(monkeypatch):
    """Validations whose values are written down beforehand (by step); gives the weights that were validated."""
    seen = {}

    def fake(self, trainer, pl_module):
        step = trainer.global_step
        seen[step] = {name: value.clone() for name, value in pl_module.state_dict().items()}
        values = {"agreement": {2: 0.2, 4: 0.9, 6: 0.5}[step], "kappa": math.nan, "step": float(step)}
        self.history.append(values)
        return values

    monkeypatch.setattr(ScoreValidation, "run", fake)
    return seen


VALIDATED = {"size": 1, "matrix": 64, "every_steps": 2}


def assert_weights(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_average_is_validated_and_training_goes_on_unharmed(tmp_path, straight, scored):
    run(tmp_path, config(validation=VALIDATED))
    assert sorted(scored) == [2, 4, 6]
    assert_weights(scored[6], checkpoint(tmp_path)["state_dict"])
    for key in ("state_dict", "current_model_state", "optimizer_states"):
        assert_same(checkpoint(tmp_path)[key], checkpoint(straight[0])[key])


def test_the_best_checkpoint_is_exported(tmp_path, scored):
    reported = []
    module, facts = run(tmp_path, config(validation=VALIDATED), report=lambda *values: reported.append(values))
    assert checkpoint(tmp_path, "best")["global_step"] == 4
    assert_weights(module.state_dict(), scored[4])
    assert (facts["weights"], facts["weights_step"], facts["steps"]) == ("best", 4, 6)
    assert facts["validation"] == {"agreement": 0.9, "kappa": None, "step": 4.0}
    assert reported == [(2, 0.2), (4, 0.9), (6, 0.5)]
    rows = log(tmp_path)[["step", "val/agreement"]].dropna().astype(float)
    assert rows.to_numpy().tolist() == [[2, 0.2], [4, 0.9], [6, 0.5]]


def test_a_worse_validation_after_resuming_does_not_replace_the_best(tmp_path, scored):
    run(tmp_path, config(validation=VALIDATED, stop_at_step=5))
    module, facts = run(tmp_path, config(validation=VALIDATED, ckpt_path="last"))
    assert (facts["weights_step"], facts["validation"]["agreement"]) == (4, 0.9)
    assert_weights(module.state_dict(), scored[4])
    assert [path.name for path in sorted(tmp_path.glob("*.ckpt"))] == ["best.ckpt", "last.ckpt"]
    rows = log(tmp_path)[["step", "val/agreement"]].dropna().astype(float)
    assert rows.to_numpy().tolist() == [[2, 0.2], [4, 0.9], [6, 0.5]]


def test_the_last_step_is_validated_whatever_the_interval(tmp_path, scored):
    run(tmp_path, config(validation={**VALIDATED, "every_steps": 0}))
    assert list(scored) == [6]
    assert checkpoint(tmp_path, "best")["global_step"] == 6


def test_accumulating_validates_once_a_step(tmp_path, scored):
    reported = []
    changes = {"validation": VALIDATED, "trainer": {"accumulate_grad_batches": 2}}
    run(tmp_path, config(**changes), report=lambda *values: reported.append(values))
    assert [step for step, _ in reported] == [2, 4, 6]


# ---- the stream ------------------------------------------------------------------------------------------------------


def batches(order, number):
    iterator = iter(order)
    return [next(iterator) for _ in range(number)]


def test_every_patch_comes_once_in_each_shuffle():
    places = [place for batch in batches(StepOrder(LENGTH, 2, 0), 10) for place in batch]
    for epoch in range(4):
        one = places[epoch * LENGTH : (epoch + 1) * LENGTH]
        assert {index for _, index in one} == set(range(LENGTH))
        assert {e for e, _ in one} == {epoch}
    assert places[:LENGTH] != [(0, index) for _, index in places[LENGTH : 2 * LENGTH]]


def test_the_stream_starts_anywhere_and_depends_on_the_seed():
    assert batches(StepOrder(LENGTH, 2, 0, first=3), 4) == batches(StepOrder(LENGTH, 2, 0), 7)[3:]
    assert batches(StepOrder(LENGTH, 2, 0), 4) != batches(StepOrder(LENGTH, 2, 1), 4)


def test_a_patch_has_the_jitter_of_its_shuffle():
    order, patches = PatchStream(source(), 0), source().patches
    order.trainer = SimpleNamespace(global_step=3, accumulate_grad_batches=1, global_rank=0, world_size=1)
    found = next(iter(order.train_dataloader()))["hu"]
    places = batches(StepOrder(LENGTH, 2, 0), 4)[3]
    assert {epoch for epoch, _ in places} == {1}
    patches.epoch = 1
    assert torch.equal(found, torch.stack([patches[index]["hu"] for _, index in places]))


@pytest.mark.parametrize("change", [{"global_step": 5}, {"global_rank": 1}])
def test_randomness_inside_a_step_is_a_function_of_its_number(change):
    def drawn(**changes):
        module = StageModule({"spacing_mm": 3.0, "patch": 8, "widths": [2, 4]})
        values = {"global_step": 4, "accumulate_grad_batches": 2, "global_rank": 0} | changes
        module._trainer = SimpleNamespace(**values)
        module.on_train_batch_start({}, 8)
        first = torch.rand(3).tolist()
        module.on_train_batch_start({}, 9)
        return first, torch.rand(3).tolist()

    assert drawn() == drawn()
    assert drawn()[0] != drawn()[1]
    assert drawn()[0] != drawn(**change)[0]


def test_processes_share_each_batch():
    whole = batches(StepOrder(LENGTH, 4, 0), 3)
    parts = [batches(StepOrder(LENGTH, 2, 0, rank=rank, world=2), 3) for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


# ---- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_give_what_one_does_with_twice_the_batch(tmp_path):
    """Patches know different parts of the truth, so that means of means would differ."""
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_PORT")}
    command = [sys.executable, str(Path(__file__).with_name("tiny_run.py")), str(tmp_path / "two")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    run(tmp_path / "one", config(3), batch_size=2)
    one, two = log(tmp_path / "one").astype(float), log(tmp_path / "two").astype(float)
    pd.testing.assert_frame_equal(one, two, rtol=1e-4, atol=1e-6)
    for key in ("state_dict", "current_model_state"):
        a, b = checkpoint(tmp_path / "one")[key], checkpoint(tmp_path / "two")[key]
        assert all(torch.allclose(a[name], b[name], rtol=1e-3, atol=1e-5) for name in a)


def test_the_networks_of_this_file_are_small():
    assert sum(p.numel() for p in StageConfig(3.0, patch=8, widths=(2, 4)).build().parameters()) < 3000
