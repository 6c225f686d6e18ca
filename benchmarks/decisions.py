"""Experiments that decide the defaults: train each variant with several seeds, judge all by the same scans.

``python benchmarks/decisions.py question=maps steps=400 seeds=2 scans=12 [heart_model=polar] [image= mask=] docs=docs``

Questions and variants are in ``conf/decisions.yaml``. Each run is ``train.py experiment=phantom`` (``phantom_fine``, if the
question is about the fine stage) with the variant's overrides below ``runs/decisions/``; a finished one is not trained again,
an interrupted one goes on. Judged on validation phantoms of the *other* heart model (training is on ``ellipsoid``), and, given
``image`` and ``mask``, on a real CT as in ``real_ct.py``. A difference counts if every seed of one variant is better than every
seed of the others; else the question stays open.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from pages import write_between
from real_ct import mask_of, read
from rich.console import Console
from rich.progress import track

from cacsnet.agreement.statistics import icc
from cacsnet.errors import ConfigError
from cacsnet.inference.settings import InferenceSettings
from cacsnet.io import read_scan
from cacsnet.keys import read_keys, whole_number
from cacsnet.labels import VESSEL_NAMES
from cacsnet.network.checkpoint import load_model
from cacsnet.phantom.anatomy import HEART_MODELS
from cacsnet.phantom.cohort import make_case
from cacsnet.training.evaluate import held_out_recipe
from cacsnet.training.judging import calcium_shares, judged_row
from cacsnet.workers import worker_pool

ROOT = Path(__file__).resolve().parents[1]
FIGURES: tuple[tuple[str, str, bool], ...] = (
    ("icc_total", "ICC(A,1) total", True),
    ("icc_vessels", "mean of the vessels'", True),
    ("true_kept", "true calcium kept", True),
    ("right_vessel_of_kept", "right vessel", True),
    ("false_among_kept", "false among kept", False),
    ("real_dice", "real: heart Dice", True),
    ("real_hit", "real: hit", True),
    ("real_false", "real: false", False),
)
"""Name, title, and whether more is better."""

EXPERIMENTS = {"coarse": ["experiment=phantom"], "fine": ["experiment=phantom_fine", "+stages.fine.start=null"]}
"""The runs of a question by the stage it is about. A fine one starts anew, or the coarse voxel size would have a head start."""


def train(name: str, overrides: Sequence[str], seed: int, steps: int, extra: Sequence[str], stage: str = "coarse") -> Path:
    """Train one variant with one seed, or take what is there."""
    output = ROOT / "runs" / "decisions" / f"{name}-{steps}-{seed}"
    weights = output / "cacsnet.safetensors"
    if not weights.exists():
        command = [
            sys.executable, "-W", "ignore", "train.py", *EXPERIMENTS[stage], f"output={output}", f"seed={seed}",
            "ckpt_path=last", "validation.size=0", f"stages.{stage}.max_steps={steps}", *overrides, *extra,
        ]  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=True)
    return weights


def judge_scan(job: tuple[int, str, list[Path]]) -> list[dict[str, Any]]:
    """One phantom scan, scored by every model."""
    number, heart_model, models = job
    case = make_case(held_out_recipe(number, heart_model, "validation"))
    return [{"model": str(path), "scan": number, **judged_row(case, load_model(path), InferenceSettings())} for path in models]


def figures(rows: pd.DataFrame) -> dict[str, float]:
    """What one model reaches over all scans; a refused one counts as a score of 0, it is worse than any other."""
    scores = {v: pd.to_numeric(rows[f"agatston_{v}"]).fillna(0.0) for v in ("total", *VESSEL_NAMES)}
    per_vessel = [icc(rows[f"reference_{v}"], scores[v]).agreement for v in VESSEL_NAMES]
    shares = calcium_shares(rows)
    return {
        "icc_total": icc(rows["reference_total"], scores["total"]).agreement,
        "icc_vessels": float(np.nanmean(per_vessel)) if np.isfinite(per_vessel).any() else float("nan"),
        **{name: shares[name] for name in ("true_kept", "right_vessel_of_kept", "false_among_kept")},
    }


def verdict(values: Mapping[str, Sequence[float]], more_is_better: bool) -> str:
    """The variant whose every seed beats every seed of all others, or "open"."""
    sign = 1.0 if more_is_better else -1.0
    for name, mine in values.items():
        others = [sign * v for other, them in values.items() if other != name for v in them]
        if others and min(sign * v for v in mine) > max(others):
            return name
    return "open"


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Markdown: one row per figure, one column per variant with every seed's value, and the verdict."""
    lines = ["| | " + " | ".join(found) + " | better |", "|---|" + "---:|" * len(found) + "---|"]
    for key, title, more in FIGURES:
        values = {name: [run[key] for run in runs if key in run] for name, runs in found.items()}
        if all(values.values()):
            cells = [", ".join(f"{v:.3f}" for v in mine) for mine in values.values()]
            lines.append(f"| {title} | " + " | ".join(cells) + f" | {verdict(values, more)} |")
    return "\n".join(lines)


KEYS = {
    "question": "maps", "steps": "400", "seeds": "2", "scans": "12", "heart_model": "polar", "image": "", "mask": "",
    "workers": "2", "docs": "", "overrides": "",
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, or 2 for a bad command. ``overrides``: further ones of train.py for every run, separated by commas."""
    console = Console(width=140)
    try:
        keys = read_keys(arguments, KEYS)
        questions: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "decisions.yaml"))
        if keys["question"] not in questions:
            raise ConfigError(f"choose from {', '.join(questions)}", field="question", value=keys["question"])
        if keys["heart_model"] not in HEART_MODELS:
            raise ConfigError(f"choose from {', '.join(HEART_MODELS)}", field="heart_model", value=keys["heart_model"])
        steps, seeds, scans, workers = (whole_number(keys, name, 1) for name in ("steps", "seeds", "scans", "workers"))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    asked = questions[keys["question"]]
    extra = [o for o in keys["overrides"].split(",") if o]
    runs: dict[str, list[Path]] = {}
    for name, overrides in asked["variants"].items():
        short, stage = f"{keys['question']}-{name.replace(' ', '_').replace(',', '')}", asked.get("stage", "coarse")
        runs[name] = [train(short, overrides, seed, steps, extra, stage) for seed in range(seeds)]
    models = [path for paths in runs.values() for path in paths]
    jobs = [(number, keys["heart_model"], models) for number in range(scans)]
    pool = worker_pool(workers)
    with pool:
        rows = [row for case in track(pool.map(judge_scan, jobs), "judging", len(jobs), console=console) for row in case]
    frame = pd.DataFrame(rows)
    found = {name: [figures(frame[frame["model"] == str(path)]) for path in paths] for name, paths in runs.items()}
    if keys["image"]:
        scan = read_scan(Path(keys["image"]))
        mask = mask_of(keys["mask"], scan)
        for name, paths in runs.items():
            for path, run in zip(paths, found[name], strict=True):
                one = read(name, scan, np.isin(mask, (1, 3)), mask == 3, load_model(path))
                run |= {"real_dice": one.heart_dice, "real_hit": one.hit / max(1, one.labelled), "real_false": float(one.false)}
    text = (
        f"**{asked['question']}** `python benchmarks/decisions.py question={keys['question']} steps={steps} "
        f"seeds={seeds} scans={scans} heart_model={keys['heart_model']}`\n\n{table(found)}"
    )
    console.print(text, markup=False)
    output = ROOT / "runs" / "decisions" / f"{keys['question']}-{steps}.json"
    output.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if keys["docs"]:
        write_between(Path(keys["docs"]) / "training.md", f"decision {keys['question']}", text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
