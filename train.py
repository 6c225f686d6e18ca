"""Train a model: ``python train.py experiment=phantom``; all keys are in ``conf/train.yaml``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig, OmegaConf

from cacsnet.training.run import main


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def train(config: DictConfig) -> None:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    main({str(key): value for key, value in plain.items()})


if __name__ == "__main__":
    train()
