"""One stage: optimizer, schedule, what a checkpoint remembers, what the card says."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from cacsnet.errors import ConfigError
from cacsnet.network.losses import LossWeights
from cacsnet.training.module import StageModule
from cacsnet.training.run import loggers, train_stage

CONF = Path(__file__).resolve().parents[2] / "conf"
TINY = {"spacing_mm": 4.0, "patch": 16, "widths": [2, 4]}


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(overrides)), resolve=True)


def with_steps(module, total):
    module._trainer = SimpleNamespace(estimated_stepping_batches=total)
    return module


@pytest.mark.parametrize("experiment", sorted(p.stem for p in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_composes_and_its_stages_build(experiment):
    config = composed(f"experiment={experiment}")
    assert config["name"] == experiment
    assert "coarse" in config["stages"] or config["start_from"]  # a model has one, trained or kept
    for stage in config["stages"].values():
        module = StageModule(stage["model"], config["loss"], config["optimizer"])
        assert module.stage.patch == stage["data"]["patches"]["patch"]
        assert module.stage.spacing_mm == stage["data"]["patches"]["spacing_mm"]


@pytest.mark.parametrize("group", ["optimizer", "trainer", "logger", "loss"])
def test_every_choice_composes(group):
    for choice in (CONF / group).glob("*.yaml"):
        config = composed(f"{group}={choice.stem}")
        assert config[group] == OmegaConf.to_container(OmegaConf.load(choice))


def test_an_experiment_overrides_the_defaults():
    """Smoke asks for one small validation scan; train.yaml for five large ones."""
    assert composed("experiment=smoke")["validation"] == {"size": 1, "matrix": 96, "every_steps": 0, "pictures": 2}
    assert composed("experiment=smoke")["checkpoint_every_steps"] == 2
    assert composed("experiment=phantom")["validation"]["matrix"] == 384
    assert composed("experiment=smoke", "validation.size=0")["validation"]["size"] == 0


def test_defaults_of_the_code_are_those_of_the_configuration():
    assert LossWeights(**composed()["loss"]) == LossWeights()


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimizers_decay_convolutions_only(name, kind):
    module = with_steps(StageModule(TINY, {}, composed(f"optimizer={name}")["optimizer"]), 100)
    out = module.configure_optimizers()
    assert isinstance(out["optimizer"], kind)
    decayed, other = out["optimizer"].param_groups
    assert decayed["weight_decay"] > 0 == other["weight_decay"]
    assert all(p.ndim == 5 for p in decayed["params"])
    assert len(decayed["params"]) + len(other["params"]) == len(list(module.network.parameters()))


def test_the_learning_rate_warms_up_and_fades():
    module = with_steps(StageModule(TINY, {}, {"lr": 1.0, "warmup_steps": 10}), 100)
    factor = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
    values = [factor(step) for step in range(101)]
    assert values[0] == pytest.approx(0.1)
    assert max(values) == pytest.approx(1.0)
    assert values.index(max(values)) in (9, 10)
    assert values[10:] == sorted(values[10:], reverse=True)
    assert values[-1] == pytest.approx(0.02)


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ConfigError, match=r"adamw or sgd.*'lion'"):
        StageModule(TINY, {}, {"name": "lion"})


@pytest.mark.parametrize("values", [{**TINY, "width": [2]}, {"patch": 16}])
def test_an_impossible_model_is_named(values):
    with pytest.raises(ConfigError, match=r"width|spacing_mm"):
        StageModule(values)


def test_unknown_loggers_are_named(tmp_path):
    assert len(loggers({"names": ["csv", "tensorboard"]}, tmp_path)) == 2
    with pytest.raises(ConfigError, match="mlflow"):
        loggers({"names": ["mlflow"]}, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("+stages.coarse.data.patches.colour=3",), "colour"),
        (("ckpt_path=best",), "ckpt_path"),
        (("stages.coarse.model.spacing_mm=2.0",), "spacing_mm"),
        (("stages.coarse.model.patch=64",), "patch"),
        (("optimizer.name=lion",), "lion"),
        (("logger.names=[mlflow]",), "mlflow"),
    ],
)
def test_a_bad_command_is_refused_before_training(tmp_path, overrides, words):
    config = composed("experiment=smoke", f"output={tmp_path}", *overrides)
    with pytest.raises(ConfigError, match=words):
        train_stage("coarse", config, tmp_path / "coarse", None, Console(quiet=True))


def test_the_description_is_plain():
    described = StageModule(TINY, {"course": 0.25}, {"name": "sgd"}).describe()
    assert described["stage"]["widths"] == (2, 4)
    assert described["loss"]["course"] == 0.25
    assert described["optimizer"]["name"] == "sgd"


def test_a_training_step_of_either_stage_gives_a_finite_loss_with_gradients():
    generator = torch.Generator().manual_seed(0)
    shape = (2, 16, 16, 16)
    batch = {
        "hu": torch.rand(shape, generator=generator) * 400 - 100,
        "structures": torch.randint(0, 8, shape, generator=generator, dtype=torch.uint8),
        "course": torch.randint(0, 5, shape, generator=generator, dtype=torch.uint8),
        "points": torch.rand((2, 9, 3), generator=generator) * 15,
        "point_label": torch.ones((2, 9), dtype=torch.uint8),
        "point_group": torch.zeros((2, 9), dtype=torch.uint8),
    }
    for in_channels in (1, 9):
        module = StageModule({**TINY, "in_channels": in_channels})
        module.log_dict = lambda *args, **kwargs: None  # no trainer here
        loss = module.training_step(batch, 0)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in module.network.parameters())
