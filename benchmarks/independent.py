"""How a model does on phantoms that share no code with those it was trained on (``independent_phantom.py``).

``python benchmarks/independent.py scans=48 [first=0] [checkpoint=] [workers=2] [docs=docs]``

Their anatomy, plaques and scanner were written from the literature alone, by someone who didn't look at the phantom of
``cacsnet/phantom``. What a network learnt of that phantom's habits doesn't help here. One JSON line a scan below
``runs/independent/``: an interrupted run goes on. Figures, intervals and targets as in ``cohort.py``; nothing is chosen by
them.

``docs=`` (empty: none): the table replaces what stands between the marks "independent" in ``<docs>/cohorts.md``.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cohort import judged, markdown
from independent_phantom import IndependentScan, make
from pages import write_between
from rich.console import Console
from rows import collected

from cacsnet.errors import CacsError
from cacsnet.inference.settings import InferenceSettings
from cacsnet.keys import read_keys, whole_number
from cacsnet.labels import VESSEL_INDEX, VESSEL_NAMES
from cacsnet.network.checkpoint import load_model
from cacsnet.scan import Acquisition, Geometry, Scan
from cacsnet.scoring import score
from cacsnet.training.judging import calcium_amounts, calcium_shares, scored_row

ROOT = Path(__file__).resolve().parents[1]
OTHER = 5
OWNERS = {VESSEL_INDEX[name]: name for name in VESSEL_NAMES} | {OTHER: "other"}
"""Codes of ``IndependentScan.owner``; the last is calcium that is no artery's."""


def scan_of(phantom: IndependentScan) -> Scan:
    """As a reader of files would give it."""
    geometry = Geometry.axial(phantom.hu.shape, phantom.spacing_mm, (0.0, 0.0, 0.0))
    return Scan(phantom.hu, geometry, Acquisition(modality="CT", kvp=float(phantom.kvp)))


def judge(seed: int, checkpoint: str, matrix: int | None = None) -> dict[str, Any]:
    """One scan: scores of reference and model, and whose calcium was kept."""
    phantom = make(seed, matrix)
    own = np.where(phantom.owner < OTHER, phantom.owner, 0).astype(np.uint8)
    reference = score(phantom.hu, own, phantom.spacing_mm, phantom.kvp)
    row: dict[str, Any] = {"patient_id": seed, "reference_total": reference.total.agatston}
    row |= {f"reference_{name}": reference.vessels[name].agatston for name in VESSEL_NAMES}
    scores, result = scored_row(scan_of(phantom), load_model(Path(checkpoint)), InferenceSettings())
    if result is None:
        return row | scores
    amounts = calcium_amounts(phantom.hu, phantom.owner, result.vessel_map, phantom.kvp, phantom.spacing_mm, OWNERS)
    return row | scores | amounts


def page(scans: pd.DataFrame, command: str, sha256: str) -> str:
    """The table of docs/cohorts.md."""
    named = calcium_shares(scans)["right_vessel_of_kept"]
    other = scans["kept_other"].sum() / max(scans["amount_other"].sum(), 1e-9)
    table = markdown({"independent": scans}, {"independent": judged(scans)}, trained_on="ellipsoid")
    return (
        f"`{command}`, weights {sha256[:8]}. {table}\n\n"
        f"{100 * named:.1f} % of the coronary calcium that was kept has the right vessel's name; "
        f"{100 * other:.1f} % of the calcium that is no artery's was taken for coronary."
    )


KEYS = {
    "scans": "48", "first": "0", "checkpoint": "checkpoints/cacsnet.safetensors", "workers": "2", "matrix": "", "cache": "",
    "docs": "",
}  # fmt: skip


def main(arguments: Sequence[str], score_one: Callable[..., dict[str, Any]] = judge) -> int:
    """Exit code 0, or 2 for a bad command."""
    torch.set_num_threads(1)
    try:
        keys = read_keys(arguments, KEYS)
        scans, first, workers = (whole_number(keys, *key) for key in (("scans", 2), ("first", 0), ("workers", 1)))
        matrix = whole_number(keys, "matrix", 64) if keys["matrix"] else None
        model = load_model(Path(keys["checkpoint"]))
    except CacsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    source = hashlib.sha256((ROOT / "benchmarks" / "independent_phantom.py").read_bytes()).hexdigest()
    path = Path(keys["cache"] or ROOT / "runs" / "independent") / f"{keys['matrix']}_{source[:10]}_{model.sha256[:10]}.jsonl"
    jobs = {seed: (seed, keys["checkpoint"], matrix) for seed in range(first, first + scans)}
    console = Console(width=160)
    rows = pd.DataFrame(collected(path, "patient_id", jobs, score_one, workers, "independent phantoms", console))
    text = page(rows, f"python benchmarks/independent.py scans={scans} first={first}", model.sha256)
    console.print(text, markup=False)
    if keys["docs"]:
        write_between(Path(keys["docs"]) / "cohorts.md", "independent", text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
