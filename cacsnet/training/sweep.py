"""Search hyperparameters: ``python -m cacsnet.training.sweep hparams_search=optimizer trials=20 experiment=phantom``.

Each trial is a run of ``train.py`` with values of its own, below ``<output>/<number>``. Optuna's TPE sampler proposes them from
the ranges in ``conf/hparams_search/*.yaml``; trials that validate worse than the others did at the same step end early.
Everything is kept in ``<output>/study.db``: the same command goes on with a search that was interrupted, the trial it was in
included. One process per study. All other keys are those of ``conf/train.yaml``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from rich.console import Console

from cacsnet.errors import ConfigError
from cacsnet.training.run import main as train

try:
    import optuna
except ImportError as error:  # pragma: no cover
    raise ConfigError('a search needs Optuna: pip install "cacsnet[sweep]"', field="hparams_search") from error

CONF = Path(__file__).resolve().parents[2] / "conf"
DISTRIBUTIONS = {
    "float": optuna.distributions.FloatDistribution,
    "int": optuna.distributions.IntDistribution,
    "categorical": optuna.distributions.CategoricalDistribution,
}


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """``conf/train.yaml`` with overrides, as plain values."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            plain = OmegaConf.to_container(compose("train", list(overrides)), resolve=True)
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0], field="overrides", value=list(overrides)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def search_space(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Optuna's distributions from ``{key: {type: float, low: …}}``."""
    space = {}
    for key, entry in values.items():
        arguments = dict(entry)
        kind = arguments.pop("type", None)
        if kind not in DISTRIBUTIONS:
            raise ConfigError(f"choose from {', '.join(DISTRIBUTIONS)}", field=f"space.{key}.type", value=kind)
        try:
            space[key] = DISTRIBUTIONS[kind](**arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error), field=f"space.{key}", value=dict(entry)) from error
    return space


def open_study(folder: Path, search: Mapping[str, Any]) -> optuna.Study:
    """The study in ``folder``, new or gone on with; a trial that an interruption left unfinished is queued again."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{folder.resolve() / 'study.db'}"
    pruning = search["pruning"]
    pruner = optuna.pruners.MedianPruner(int(pruning["startup_trials"]), int(pruning["warmup_steps"]))
    study = optuna.create_study(study_name="cacsnet", storage=storage, direction="maximize", pruner=pruner, load_if_exists=True)
    # another seed after each interruption, else the first proposals would be made again
    study.sampler = optuna.samplers.TPESampler(seed=int(search["sampler_seed"]) + len(study.trials))
    for left in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(left.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(left.params, user_attrs={"folder": left.user_attrs.get("folder", f"{left.number:04d}")})
    return study


def run_trial(study: optuna.Study, space: Mapping[str, Any], overrides: Sequence[str], folder: Path, console: Console) -> None:
    """One trial: ask, train, tell the score agreement of what it exported."""
    trial = study.ask(dict(space))
    below = str(trial.user_attrs.get("folder", f"{trial.number:04d}"))
    trial.set_user_attr("folder", below)

    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    chosen = [f"{key}={value}" for key, value in trial.params.items()]
    config = composed([*overrides, *chosen]) | {"output": str(folder / below), "ckpt_path": "last"}
    console.print(f"[bold]trial {trial.number}[/] {' '.join(chosen)}")
    try:
        card = json.loads(train(config, console, report).with_suffix(".json").read_text())
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except torch.cuda.OutOfMemoryError:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        *_, last_stage = card["training"].values()
        study.tell(trial, last_stage["validation"]["agreement"])  # of its best checkpoint


def main(arguments: Sequence[str], console: Console | None = None) -> optuna.Study:
    """Keys: ``hparams_search`` (a file of ``conf/hparams_search``), ``trials`` (finished ones in all), ``output``."""
    console = console or Console()
    keys = {"hparams_search": "optimizer", "trials": "20", "output": ""}
    overrides = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in keys:
            keys[key] = value
        else:
            overrides.append(argument)
    path = CONF / "hparams_search" / f"{keys['hparams_search']}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ConfigError(f"no such search space; known are {known}", field="hparams_search", value=keys["hparams_search"])
    search: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    config = composed(overrides)
    if not config["validation"]["size"]:
        raise ConfigError("a search needs validation scans", field="validation.size", value=0)
    folder = Path(keys["output"] or f"{config['output']}_search_{keys['hparams_search']}")
    study, space = open_study(folder, search), search_space(search["space"])
    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    while len(study.get_trials(deepcopy=False, states=finished)) < int(keys["trials"]):
        run_trial(study, space, overrides, folder, console)
    study.trials_dataframe().to_csv(folder / "trials.csv", index=False)
    if study.get_trials(deepcopy=False, states=finished[:1]):
        best = " ".join(f"{key}={value}" for key, value in study.best_params.items())
        console.print(f"best of {len(study.trials)}: val/agreement {study.best_value:.4f} with\n  {best}")
    return study


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
