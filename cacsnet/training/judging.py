"""What a model makes of a phantom scan, in the rows that validation, evaluation and the benchmarks judge it by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cacsnet.errors import CacsError
from cacsnet.inference.pipeline import CaseResult, score_scan
from cacsnet.inference.settings import InferenceSettings
from cacsnet.labels import VESSEL_INDEX, VESSEL_NAMES
from cacsnet.network.checkpoint import Model
from cacsnet.phantom.cohort import CohortCase
from cacsnet.phantom.deposits import OWNER_NAMES
from cacsnet.scan import Scan
from cacsnet.scoring import load_profile


def scored_row(scan: Scan, model: Model, settings: InferenceSettings) -> tuple[dict[str, Any], CaseResult | None]:
    """``status, agatston_total, agatston_LM ...`` of a scan, and the result behind them.

    A scan that is refused has its reason as status, no scores and no result.
    """
    try:
        result = score_scan(scan, model, settings)
    except CacsError as error:
        return {"status": error.code} | {f"agatston_{name}": None for name in ("total", *VESSEL_NAMES)}, None
    row: dict[str, Any] = {"status": "ok", "agatston_total": result.score.total.agatston}
    return row | {f"agatston_{name}": result.score.vessels[name].agatston for name in VESSEL_NAMES}, result


def judged_row(case: CohortCase, model: Model, settings: InferenceSettings) -> dict[str, Any]:
    """A scan as a benchmark judges it: ``reference_total, reference_LM ...``, what :func:`scored_row` says, and, unless it was
    refused, the calcium of :func:`calcium_amounts`."""
    row: dict[str, Any] = {"reference_total": case.reference.total.agatston}
    row |= {f"reference_{name}": case.reference.vessels[name].agatston for name in VESSEL_NAMES}
    scores, result = scored_row(case.scan, model, settings)
    return row | scores | ({} if result is None else calcium_of(case, result.vessel_map))


def calcium_of(case: CohortCase, kept: NDArray[np.uint8]) -> dict[str, float]:
    """:func:`calcium_amounts` of a scan and the vessel map [z, y, x] that a model gave it."""
    truth = case.truth
    return calcium_amounts(truth.hu, truth.owner, kept, truth.protocol.kvp, case.scan.spacing_mm)


def calcium_amounts(
    hu: NDArray[Any], owner: NDArray[np.uint8], kept: NDArray[np.uint8], kvp: int, spacing_mm: Sequence[float],
    names: Mapping[int, str] = OWNER_NAMES,
) -> dict[str, float]:  # fmt: skip
    """HU mm³ of the voxels [z, y, x] that reach the threshold, by whom they belong to; "nobody" is bone and noise.

    ``names``: of the codes in ``owner``.

    ``amount_<owner>``: all of it; ``kept_<owner>``: kept as coronary; ``named_<vessel>``: kept under the right name.
    """
    bright = np.flatnonzero(hu >= load_profile("smartscore").threshold_hu(kvp))
    amount = hu.ravel()[bright] * float(np.prod(spacing_mm))
    codes, given = owner.ravel()[bright], kept.ravel()[bright]
    out: dict[str, float] = {}
    for code, name in {0: "nobody", **names}.items():
        mine = codes == code
        if mine.any():
            out |= {f"amount_{name}": float(amount[mine].sum()), f"kept_{name}": float(amount[mine & (given > 0)].sum())}
            if name in VESSEL_INDEX:
                out[f"named_{name}"] = float(amount[mine & (given == code)].sum())
    return out


def calcium_shares(rows: pd.DataFrame) -> dict[str, float]:
    """Shares of the calcium of all scans together, from the columns of :func:`calcium_amounts`; nan where there is none.

    Returns:
        ``true_kept``: of true coronary calcium. ``right_vessel_of_kept``: of that, under the right name. ``<owner>_kept``: of
        each owner's, a vessel's or another's. ``nobody_among_kept``: of all that was kept, bone and noise;
        ``false_among_kept``: whatever is no coronary calcium.
    """

    def total(what: str, names: Sequence[str]) -> float:
        return float(sum(rows[f"{what}_{name}"].sum() for name in names if f"{what}_{name}" in rows))

    def share(part: float, whole: float) -> float:
        return part / whole if whole else float("nan")

    owners = ("nobody", *OWNER_NAMES.values())
    true, everything = total("kept", VESSEL_NAMES), total("kept", owners)
    return {
        "true_kept": share(true, total("amount", VESSEL_NAMES)),
        "right_vessel_of_kept": share(total("named", VESSEL_NAMES), true),
        **{f"{name}_kept": share(total("kept", [name]), total("amount", [name])) for name in OWNER_NAMES.values()},
        "nobody_among_kept": share(total("kept", ["nobody"]), everything),
        "false_among_kept": share(everything - true, everything),
    }
