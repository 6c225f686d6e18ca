"""A search of three tiny trials: values within the ranges, a study that goes on, pruning, clear refusals."""

import json
import math
from pathlib import Path

import optuna
import pandas as pd
import pytest
from rich.console import Console

from cacsnet.errors import ConfigError
from cacsnet.training import sweep

QUIET = Console(quiet=True)
SMALL = ("experiment=smoke", "validation.every_steps=2")
FINISHED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)


def exported(config, value):
    """The card of a run whose best checkpoint has this agreement."""
    card = Path(config["output"]) / "cacsnet.json"
    card.parent.mkdir(exist_ok=True)
    card.write_text(json.dumps({"training": {"coarse": {}, "fine": {"validation": {"agreement": value}}}}))
    return card.with_suffix(".safetensors")


@pytest.fixture
def trained(monkeypatch):
    """Runs that report two validations instead of training: better the closer lr is to 0.002."""
    runs = []

    def fake(config, console, report):
        runs.append(config)
        value = 1 - abs(math.log10(config["optimizer"]["lr"] / 2e-3))
        report(200, value - 0.3)
        report(400, value)
        report(600, value - 0.1)
        return exported(config, value)

    monkeypatch.setattr(sweep, "train", fake)
    return runs


def search(folder, trials=3, *overrides):
    return sweep.main([f"output={folder}", f"trials={trials}", "hparams_search=optimizer", *SMALL, *overrides], QUIET)


@pytest.mark.parametrize("name", sorted(path.stem for path in (sweep.CONF / "hparams_search").glob("*.yaml")))
def test_every_search_space_names_keys_of_the_configuration(name):
    text = sweep.OmegaConf.to_container(sweep.OmegaConf.load(sweep.CONF / "hparams_search" / f"{name}.yaml"))
    space = sweep.search_space(text["space"])
    config = sweep.composed(["experiment=smoke"])
    for key, distribution in space.items():
        value = config
        for part in key.split("."):
            value = value[part]
        assert distribution._contains(distribution.to_internal_repr(value)), f"the default of {key} is not in its range"


def test_three_trials_run_with_their_own_values_and_folders(tmp_path, trained):
    study = search(tmp_path)
    assert len(trained) == 3
    assert len({run["optimizer"]["lr"] for run in trained}) == 3
    assert [run["output"] for run in trained] == [str(tmp_path / name) for name in ("0000", "0001", "0002")]
    assert all(3e-4 <= run["optimizer"]["lr"] <= 6e-3 for run in trained)
    assert trained[0]["name"] == "smoke"
    best = max(1 - abs(math.log10(run["optimizer"]["lr"] / 2e-3)) for run in trained)
    assert study.best_value == pytest.approx(best)  # the best validation, not the last
    assert len(pd.read_csv(tmp_path / "trials.csv")) == 3


def test_a_search_goes_on(tmp_path, trained):
    search(tmp_path, 2)
    search(tmp_path, 4)
    assert len(trained) == 4
    assert len({run["optimizer"]["lr"] for run in trained}) == 4
    search(tmp_path, 4)
    assert len(trained) == 4


def test_an_interrupted_trial_is_finished_in_its_folder(tmp_path, trained, monkeypatch):
    def killed(config, console, report):
        trained.append(config)
        raise KeyboardInterrupt

    whole = sweep.train
    monkeypatch.setattr(sweep, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, 1)
    monkeypatch.setattr(sweep, "train", whole)
    study = search(tmp_path, 1)
    first, second = trained
    assert first["optimizer"] == second["optimizer"]
    assert first["output"] == second["output"]
    assert second["ckpt_path"] == "last"
    assert len(study.get_trials(states=FINISHED)) == 1


def test_a_bad_trial_is_pruned(tmp_path, monkeypatch):
    seen = []

    def fake(config, console, report):
        value = 0.0 if len(seen) == 6 else 1.0
        seen.append(0)
        for step in (200, 400, 600, 800):
            report(step, value)
            seen[-1] = step
        return exported(config, value)

    monkeypatch.setattr(sweep, "train", fake)
    study = search(tmp_path, 7)
    assert seen[:6] == [800] * 6
    assert seen[6] < 800
    assert study.trials[6].state == optuna.trial.TrialState.PRUNED


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("hparams_search=none", *SMALL), "loss, optimizer"),
        (("validation.size=0", *SMALL), "validation"),
        (("optimiser.lr=1", *SMALL), "optimiser"),
    ],
)
def test_what_cannot_be_searched_is_named(tmp_path, arguments, words):
    with pytest.raises(ConfigError, match=words):
        sweep.main([f"output={tmp_path}", *arguments], QUIET)


@pytest.mark.parametrize("entry", [{"type": "normal", "low": 0}, {"type": "float", "low": 1.0, "high": 0.0}, {"type": "int"}])
def test_an_impossible_range_is_named(entry):
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        sweep.search_space({"optimizer.lr": entry})
