"""``python -m cacsnet.network [stage ...]``: inputs, outputs and costs of the networks in ``conf/stage``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from cacsnet.errors import ConfigError
from cacsnet.network.checkpoint import StageConfig, stage_config
from cacsnet.network.unet import summary

STAGE_FOLDER = Path(__file__).resolve().parents[2] / "conf" / "stage"


def read_stages(names: Sequence[str] = (), folder: Path = STAGE_FOLDER) -> dict[str, StageConfig]:
    """The named stages of a folder of YAML files, or all of them."""
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    for name in names:
        if name not in files:
            raise ConfigError(f"unknown stage; {folder} has {', '.join(files) or 'none'}", field="stage", value=name)
    stages = {}
    for name in names or files:
        values = OmegaConf.to_container(OmegaConf.load(files[name]), resolve=True)
        if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
            raise ConfigError("a stage needs a mapping 'model'", path=files[name], field="model")
        stages[name] = stage_config({str(key): value for key, value in values["model"].items()})
    return stages


def stage_table(stages: dict[str, StageConfig]) -> Table:
    """One column per stage: shapes, parameters, GFLOP of one patch (multiply and add counted as two)."""
    table = Table("", *stages)
    columns = [summary(config.build(), config.patch) for config in stages.values()]
    table.add_row("voxel (mm)", *(f"{config.spacing_mm:g}" for config in stages.values()))
    for row in columns[0] if columns else ():
        table.add_row(row.replace("_", " "), *(_text(column[row]) for column in columns))
    return table


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " × ".join(str(size) for size in value)
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}".replace(",", " ")


def main(arguments: Sequence[str], console: Console | None = None) -> int:
    """Print the table; exit code 2 for a stage that isn't there."""
    console = console or Console()
    try:
        console.print(stage_table(read_stages(arguments)))
    except ConfigError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
