"""Score scans: ``python infer.py input=<file, folder or manifest.csv>``; all keys are in ``conf/infer.yaml``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cacsnet.inference.run import BAD_COMMAND, KEYS
from cacsnet.inference.run import main as run_main

# Hydra would print a traceback hint and exit with 1; we want one line and 2
os.environ.setdefault("HYDRA_FULL_ERROR", "1")


@hydra.main(version_base="1.3", config_path="conf", config_name="infer")
def infer(config: DictConfig) -> None:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    sys.exit(run_main({str(key): value for key, value in plain.items()}, Path(__file__).resolve().parent))


if __name__ == "__main__":
    try:
        infer()
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        print(f"error: {reason}\nkeys: {', '.join(KEYS)} (conf/infer.yaml)", file=sys.stderr)
        sys.exit(BAD_COMMAND)
