"""The study of Sartoretti et al. 2022 again: their printed numbers, recomputed where their printed data allow it, beside ours.

``python -m cacsnet.agreement.replicate [<agreement.json>] [output=FILE.md] [paper=conf/agreement/sartoretti2022.yaml]``;
without a study only what the paper itself prints.

Each row has three numbers: printed; recomputed from other numbers that the paper prints (table 2, means, SDs, limits, n), with
"reproduced" or what differs; and that of the study in ``agreement.json``. Accuracy on a digital cohort isn't comparable with
accuracy on patients: model and reference share the scorer there, and the truth is exact. Every row of such a study says so.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from scipy import stats
from statsmodels.stats.proportion import proportions_ztest

from cacsnet.agreement.pairs import NOT_COMPARABLE
from cacsnet.agreement.statistics import consistency_interval, reclassification, weighted_kappa
from cacsnet.agreement.write import write_text
from cacsnet.errors import CacsError, ConfigError
from cacsnet.keys import read_keys

PAPER = Path(__file__).resolve().parents[2] / "conf" / "agreement" / "sartoretti2022.yaml"
REPRODUCED = "reproduced"
NEEDS_DATA = "needs the patients' data"


@dataclass(frozen=True)
class Row:
    """One number of the paper: as printed, recomputed from what else it prints (with a verdict), and of another study."""

    what: str
    printed: str
    recomputed: str
    verdict: str
    study: str


def verdict(printed: float, recomputed: float, rounding: float) -> str:
    """Reproduced: they differ by no more than the rounding of the printed inputs and of the printed number."""
    return REPRODUCED if abs(printed - recomputed) <= rounding else "not reproduced"


def rows(paper: Mapping[str, Any], study: Mapping[str, Any]) -> list[Row]:
    """Everything the paper prints about agreement, in its order."""
    total, n = paper["total"], int(paper["scans"])
    out = [_mean_row("mean ± SD, reference / model", total, _at(study, "total"))]
    out += [_regression(total, _at(study, "total")), *_limits(total, _at(study, "total"))]
    out.append(_icc_row("ICC", total["icc"], total["icc_ci"], n, _at(study, "total")))
    out += _category_rows(paper, _at(study, "categories"))
    for name, vessel in paper["vessels"].items():
        found = _at(study, name)
        out.append(_mean_row(f"{name}: mean ± SD, reference / model", vessel, found))
        out.append(_icc_row(f"{name}: ICC", vessel["icc"], vessel["icc_ci"], n, found))
    return out + _rescan_rows(paper, _at(study, "scan_rescan"))


def _at(study: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return study.get(name) or {}


def _number(value: Any, digits: int) -> str:
    known = isinstance(value, (int, float)) and math.isfinite(value)
    return f"{value:.{digits}f}" if known else "-"


def _span(ci: Any, digits: int = 3) -> str:
    return f"{_number(ci[0], digits)} to {_number(ci[1], digits)}" if ci else "-"


def _mean_row(what: str, printed: Mapping[str, float], found: Mapping[str, Any]) -> Row:
    def pair(values: Mapping[str, Any]) -> str:
        return " / ".join(
            f"{_number(values.get(f'mean_{s}'), 1)} ± {_number(values.get(f'sd_{s}'), 1)}" for s in ("reference", "model")
        )

    return Row(what, pair(printed), "-", NEEDS_DATA, pair(found))


def _regression(total: Mapping[str, float], found: Mapping[str, Any]) -> Row:
    """Slope and intercept follow from means, SDs and the SD of the differences, which the limits of agreement give."""
    difference = (total["loa_upper"] - total["loa_lower"]) / (2 * 1.96)
    covariance = (total["sd_reference"] ** 2 + total["sd_model"] ** 2 - difference**2) / 2
    slope = covariance / total["sd_model"] ** 2
    intercept = total["mean_reference"] - slope * total["mean_model"]
    r2 = (covariance / (total["sd_reference"] * total["sd_model"])) ** 2
    good = abs(intercept - total["intercept"]) <= 0.5 and abs(r2 - total["r2"]) <= 0.005
    said = (
        REPRODUCED
        if good and abs(slope - total["slope"]) <= 0.05
        else "intercept and R² reproduced, slope 1.05 is printed as 1.1"
    )

    def text(a: Any, b: Any, c: Any) -> str:
        return f"{_number(a, 2)}; {_number(b, 1)}; {_number(c, 3)}"

    return Row(
        "regression: slope; intercept; R²",
        "; ".join(f"{total[name]:g}" for name in ("slope", "intercept", "r2")),
        text(slope, intercept, r2),
        said,
        text(found.get("slope"), found.get("intercept"), found.get("r2")),
    )


def _limits(total: Mapping[str, float], found: Mapping[str, Any]) -> list[Row]:
    """The bias is the difference of the means, and the middle of the limits."""
    middle = (total["loa_lower"] + total["loa_upper"]) / 2
    return [
        Row(
            "bias",
            _number(total["bias"], 2),
            f"{middle:.2f} (middle of the limits)",
            verdict(total["bias"], middle, 0.06),
            _number(found.get("bias"), 2),
        ),
        Row(
            "limits of agreement",
            _span((total["loa_lower"], total["loa_upper"]), 1),
            f"SD of the differences {(total['loa_upper'] - total['loa_lower']) / (2 * 1.96):.1f}",
            NEEDS_DATA,
            _span((found.get("loa_lower"), found.get("loa_upper")), 1),
        ),
    ]


def _icc_row(what: str, printed: float, ci: Sequence[float], n: int, found: Mapping[str, Any]) -> Row:
    """The interval of ICC(C,1) follows from the coefficient and n."""
    low, high = consistency_interval(printed, n)
    spread = [consistency_interval(printed + half, n) for half in (-0.0005, 0.0005)]  # the printed ICC is rounded
    off = max(
        0.0 if min(s[k] for s in spread) - 0.0006 <= ci[k] <= max(s[k] for s in spread) + 0.0006 else 1.0 for k in range(2)
    )
    return Row(
        f"{what} (95 % CI)",
        f"{printed:.3f} ({_span(ci)})",
        f"CI {_span((low, high))}",
        verdict(0.0, off, 0.5) + ", ICC(C,1)" if not off else "not reproduced",
        f"{_number(found.get('icc_c1'), 3)} ({_span(found.get('icc_c1_ci'))})",
    )


def _category_rows(paper: Mapping[str, Any], found: Mapping[str, Any]) -> list[Row]:
    """All of table 2 follows from its counts."""
    table = paper["confusion"]
    quadratic, linear, plain = (weighted_kappa(table, w).kappa for w in ("quadratic", "linear", "none"))
    moved = reclassification(table)
    return [
        Row(
            "kappa",
            f"{paper['kappa']:.3f}",
            f"{quadratic:.3f} quadratic ({linear:.3f} linear, {plain:.3f} none)",
            verdict(paper["kappa"], quadratic, 0.0005) + ", quadratic weights",
            _number(found.get("kappa_quadratic"), 3),
        ),
        Row(
            "reclassified",
            f"{paper['reclassification_percent']:.1f} %",
            f"{moved.changed} of {moved.n}: {100 * moved.rate:.2f} % ({_span([100 * v for v in moved.ci], 1)})",
            verdict(paper["reclassification_percent"], 100 * moved.rate, 0.05),
            f"{_number(100 * found['reclassification_rate'], 1)} %" if found.get("reclassification_rate") is not None else "-",
        ),
    ]


def _rescan_rows(paper: Mapping[str, Any], found: Mapping[str, Any]) -> list[Row]:
    printed, n = paper["scan_rescan"], int(paper["patients"])
    out = []
    for side, whole in (("reference", paper["total"]["sd_reference"]), ("model", paper["total"]["sd_model"])):
        values, test = printed[side], _at(found, side)
        p = 2 * float(stats.t.sf(abs(values["mean"]) / (values["sd"] / math.sqrt(n)), n - 1))
        out.append(
            Row(
                f"scan 1 - scan 2, {side}",
                f"{values['mean']:.1f} ± {values['sd']:.1f}",
                f"paired t against 0: p = {p:.2f}",
                "p not printed",
                f"{_number(test.get('mean'), 1)} ± {_number(test.get('sd'), 1)}",
            )
        )
        # with one SD of both scans, the ICC is 1 - variance of the differences / (2 x that of the scores)
        icc = 1 - values["sd"] ** 2 / (2 * whole**2)
        out.append(
            Row(
                f"scan 1 against scan 2, {side}: ICC",
                f"{values['icc']:.3f} ({_span(values['icc_ci'])})",
                f"{icc:.3f}",
                verdict(values["icc"], icc, 0.001),
                _number(_at(found, f"{side}_icc").get("consistency"), 3),
            )
        )
    for k, name in enumerate(("first", "second")):
        one = _at(found, name)
        out.append(_icc_row(f"{name} scan: ICC", printed["icc"][k], printed["icc_ci"][k], n, one))
        out.append(
            Row(f"{name} scan: kappa", f"{printed['kappa'][k]:.3f}", "-", NEEDS_DATA, _number(one.get("kappa_quadratic"), 3))
        )
    counts = printed["reclassified"]
    z_test = float(proportions_ztest(counts, [n, n])[1])
    mcnemar = float(stats.binomtest(min(counts), sum(counts)).pvalue)
    out.append(
        Row(
            "reclassified, first against second scan",
            f"{counts[0]} and {counts[1]} of {n}, p < {printed['reclassified_p']}",
            f"z-test p = {z_test:.2f}; McNemar exact p = {mcnemar:.2f} if no patient twice",
            "not reproducible: no test of these counts gives p < 0.001",
            f"{_number(_at(found, 'first').get('reclassified'), 0)} and {_number(_at(found, 'second').get('reclassified'), 0)}",
        )
    )
    return out


HEAD = ("", "printed", "recomputed", "verdict", "this study", "study against paper")


def cells(row: Row, study: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of a row below :data:`HEAD`; the first four without a study."""
    found = (row.what, row.printed, row.recomputed, row.verdict)
    return (*found, row.study, NOT_COMPARABLE if study.get("phantom") else "") if study else found


def markdown(found: Sequence[Row], source: str, study: Mapping[str, Any]) -> str:
    """The page: what is printed, recomputed, and measured on the cohort of the study (empty: none)."""
    whom = "digital patients: model and reference share scorer and truth there" if study.get("phantom") else "patients"
    words = f"Printed: {source}. Recomputed: from other numbers that the paper prints."
    words += f" Study: {study['n_cases']} scans of {study['n_patients']} {whom}." if study else ""
    n = len(HEAD) if study else 4
    rule = f"|{'|'.join(('---', '---:', '---:', '---', '---:', '---')[:n])}|"
    return "\n".join([words, "", _line(HEAD[:n]), rule, *(_line(cells(row, study)) for row in found)])


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def main(arguments: Sequence[str], console: Console | None = None) -> int:
    """Exit code 0, or 2 for a bad command."""
    console = console or Console(width=160)
    try:
        paths = [a for a in arguments if "=" not in a]
        keys = read_keys([a for a in arguments if "=" in a], {"output": "", "paper": str(PAPER)})
        if len(paths) > 1:
            raise ConfigError("takes one agreement.json", field="study", value=paths)
        study = json.loads(Path(paths[0]).read_text(encoding="utf-8")) if paths else {}
        if paths and (not isinstance(study, dict) or "n_cases" not in study):
            raise ConfigError("is no agreement.json", field="study", value=paths[0])
        paper = yaml.safe_load(Path(keys["paper"]).read_text(encoding="utf-8"))
    except (CacsError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = rows(paper, study)
    table = Table(*HEAD[: 6 if study else 4], title=paper["source"], show_lines=True)
    for row in found:
        table.add_row(*cells(row, study))
    console.print(table)
    if keys["output"]:
        path = Path(keys["output"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, markdown(found, paper["source"], study) + "\n")
        console.print(f"written to {path}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
