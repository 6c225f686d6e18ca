"""Train a model: ``python train.py experiment=phantom``; all keys are in ``conf/train.yaml``.

``python train.py -m optimizer.lr=1e-3,2e-3``: one run for each value, each in its own folder
(``runs/phantom/0``, ``runs/phantom/1``; ``config.yaml`` there says what it is).
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cacsnet.data.memory import keep_memory
from cacsnet.errors import ConfigError
from cacsnet.training.run import main


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def train(config: DictConfig) -> None:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        plain["output"] = job.runtime.output_dir
    keep_memory()  # a step on the CPU takes about a seventh less
    try:
        main({str(key): value for key, value in plain.items()})
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    train()
