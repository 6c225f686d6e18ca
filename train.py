"""Train a model: ``python train.py experiment=phantom``; all keys are in ``conf/train.yaml``."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from cacsnet.errors import ConfigError
from cacsnet.training.run import main


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def train(config: DictConfig) -> None:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    try:
        main({str(key): value for key, value in plain.items()})
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    train()
