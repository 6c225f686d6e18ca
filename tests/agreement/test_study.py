from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cacsnet.agreement.document import study_document
from cacsnet.agreement.statistics import bland_altman, icc, regression
from cacsnet.agreement.study import agreement_study, limits
from cacsnet.agreement.tables import study_summary, study_tables
from cacsnet.agreement.write import write_tables
from cacsnet.errors import ArgumentError

PAPER_TABLE = [[0, 1, 0, 0], [0, 49, 0, 0], [0, 1, 23, 2], [0, 0, 0, 36]]
IN_CATEGORY = (0.0, 50.0, 200.0, 800.0)
PART_KEYS = ("n", "mean_reference", "mean_model", "slope", "intercept", "r2", "bias", "loa_lower", "loa_upper")
ICC_KEYS = ("icc_c1", "icc_c1_ci", "icc_a1", "icc_a1_ci")
CATEGORY_KEYS = ("confusion", "kappa", "kappa_linear", "kappa_quadratic", "kappa_quadratic_ci")


def quick(reference: pd.DataFrame, scores: pd.DataFrame, **more: object):
    return agreement_study(reference, scores, resamples=60, **more)  # type: ignore[arg-type]


def paper_cohort() -> tuple[pd.DataFrame, pd.DataFrame]:
    """112 scans with the categories of the paper's Table 2."""
    pairs = [(i, j) for i, row in enumerate(PAPER_TABLE) for j, n in enumerate(row) for _ in range(n)]
    ids = [f"s{i:03d}" for i in range(len(pairs))]
    tables = ([IN_CATEGORY[pair[side]] for pair in pairs] for side in (0, 1))
    reference, scores = (pd.DataFrame({"case_id": ids, "agatston_total": values}) for values in tables)
    return reference, scores


def test_categories_of_the_paper() -> None:
    document = study_document(quick(*paper_cohort()))["categories"]
    assert document["confusion"] == PAPER_TABLE
    assert document["kappa"] == pytest.approx(0.9445, abs=5e-5)
    assert document["kappa_linear"] == pytest.approx(0.9623, abs=5e-5)
    assert document["kappa_quadratic"] == pytest.approx(0.9771, abs=5e-5)
    assert document["kappa_quadratic_ci"] == pytest.approx([0.9551, 0.9991], abs=5e-5)
    assert document["reclassification_rate"] == pytest.approx(0.0357, abs=5e-5)
    assert document["reclassification_rate_ci"] == pytest.approx([0.014, 0.088], abs=5e-4)
    assert (document["reclassified"], document["reclassified_up"], document["reclassified_down"]) == (4, 3, 1)
    assert [case["direction"] for case in document["cases"]] == ["over", "under", "over", "over"]
    low, high = document["kappa_quadratic_ci_clustered"]
    assert low < 0.977 < high


def test_the_case_bootstrap_of_the_papers_kappa() -> None:
    """2000 resamples of single scans give 0.953 to 0.995, as a check of the resampling."""
    found = agreement_study(*paper_cohort(), resamples=2000).categories.clustered["kappa_quadratic"]
    assert (found.low, found.high) == pytest.approx((0.953, 0.995), abs=4e-3)


def test_json_has_the_promised_keys_and_the_numbers_of_the_library(cohort, tmp_path: Path) -> None:
    reference, scores = cohort
    path = write_tables(quick(reference, scores), tmp_path / "agreement")
    document = json.loads(path.read_text())
    assert path == tmp_path / "agreement" / "agreement.json"
    for part in ("total", "LM", "LAD", "LCX", "RCA"):
        assert {*PART_KEYS, *ICC_KEYS} <= set(document[part])
        ref, mod = (table[f"agatston_{part}"].to_numpy() for table in (reference, scores))
        line, spread, correlation = regression(ref, mod), bland_altman(ref, mod), icc(ref, mod)
        expected = {
            "n": 30,
            "mean_reference": ref.mean(),
            "mean_model": mod.mean(),
            "sd_model": mod.std(ddof=1),
            "mean_absolute_error": np.abs(ref - mod).mean(),
            "slope": line.slope,
            "intercept": line.intercept,
            "r2": line.r_squared,
            "bias": (ref - mod).mean(),
            "loa_lower": spread.lower,
            "loa_upper": spread.upper,
            "icc_c1": correlation.consistency,
            "icc_a1": correlation.agreement,
        }
        for key, value in expected.items():
            assert document[part][key] == pytest.approx(value, abs=1e-4), (part, key)
        assert document[part]["icc_a1_ci"] == pytest.approx(list(correlation.agreement_ci), abs=1e-5)
        assert document[part]["icc_c1_ci"] == pytest.approx(list(correlation.consistency_ci), abs=1e-5)
    assert {*CATEGORY_KEYS, "reclassification_rate", "reclassified"} <= set(document["categories"])
    assert (document["n_cases"], document["n_patients"], document["settings"]["clusters"]) == (30, 15, "patient_id")
    assert document["scan_rescan"]["n"] == 15
    assert [fit["denominator"] for fit in document["glm"]] == ["reference", "mean"]


def test_tables_are_written_as_csv_and_latex(cohort, tmp_path: Path) -> None:
    study = quick(*cohort)
    write_tables(study, tmp_path)
    names = {table.name for table in study_tables(study)}
    assert names == {
        *("scores", "categories", "reclassified", "regression", "bland_altman", "icc", "kappa"),
        *("scan_rescan", "scan_agreement", "glm"),
    }
    for name in names:
        assert (tmp_path / f"{name}.csv").is_file()
        assert r"\bottomrule" in (tmp_path / f"{name}.tex").read_text()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert list(scores["vessel"]) == ["total", "LM", "LAD", "LCX", "RCA"]
    assert scores["mean_model"][0] == pytest.approx(cohort[1]["agatston_total"].mean())
    assert len(pd.read_csv(tmp_path / "pairs.csv")) == 30


def test_tables_of_an_earlier_study_are_removed(cohort, tmp_path: Path) -> None:
    reference, scores = cohort
    write_tables(quick(reference, scores), tmp_path)
    (tmp_path / "report.html").write_text("another's")
    write_tables(quick(reference.drop(columns="scan"), scores), tmp_path)
    assert not (tmp_path / "scan_rescan.csv").exists()
    assert not (tmp_path / "scan_rescan.tex").exists()
    assert (tmp_path / "report.html").exists()


def test_clustered_intervals_are_wider_where_scans_repeat(cohort) -> None:
    reference, scores = (table[table["case_id"].str.endswith("-1")] for table in cohort)
    copies = [pd.concat([t.assign(case_id=t["case_id"] + f"-{k}") for k in range(4)]) for t in (reference, scores)]
    known = agreement_study(*copies, resamples=400).parts["total"].clustered["bias"]
    copies[0] = copies[0].drop(columns="patient_id")
    unknown = agreement_study(*copies, resamples=400)
    alone = unknown.parts["total"].clustered["bias"]
    assert (known.high - known.low) / (alone.high - alone.low) == pytest.approx(2, rel=0.3)
    assert unknown.settings["clusters"] == "case_id"
    assert any("patients are unknown" in note for note in unknown.notes)


def test_the_order_of_cases_does_not_matter(cohort) -> None:
    reference, scores = cohort
    one = study_document(quick(reference, scores))
    other = study_document(quick(reference.sample(frac=1, random_state=1), scores.sample(frac=1, random_state=2)))
    assert one == other


def test_limits_for_resampling_are_those_of_bland_altman() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.exponential(100, 20), rng.exponential(100, 20)
    found = bland_altman(a, b)
    assert limits(a, b) == pytest.approx((found.bias, found.lower, found.upper))
    for n in (0, 1):
        few = bland_altman(a[:n], b[:n])
        assert limits(a[:n], b[:n]) == pytest.approx((few.bias, few.lower, few.upper), nan_ok=True)


# ---- degenerate input: warnings are errors in these tests


def table(totals: list[float], **more: object) -> pd.DataFrame:
    return pd.DataFrame({"case_id": [f"c{i}" for i in range(len(totals))], "agatston_total": totals}).assign(**more)


def written(reference: pd.DataFrame, scores: pd.DataFrame, folder: Path) -> dict:
    """All files of a study; JSON must be strict."""
    study = quick(reference, scores)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(write_tables(study, folder).read_text(), parse_constant=refuse)
    assert study_summary(study)
    return document


@pytest.mark.parametrize("n", [1, 2])
def test_few_cases(tmp_path: Path, n: int) -> None:
    document = written(table([50.0, 60.0][:n]), table([40.0, 65.0][:n]), tmp_path)
    assert document["total"]["n"] == n
    assert document["total"]["icc_a1"] is None
    assert document["total"]["icc_a1_ci"] == [None, None]
    assert "fewer than 3" in document["total"]["reasons"]["icc"]
    assert document["total"]["bias"] == pytest.approx([10, 2.5][n - 1])
    assert document["categories"]["confusion"][1][1] == n
    assert document["categories"]["kappa_quadratic"] is None
    assert "fewer than 3" in document["categories"]["reasons"]["kappa_quadratic"]
    assert document["missing"]["scan_rescan"]


def test_all_zeros(tmp_path: Path) -> None:
    document = written(table([0.0] * 6, patient_id=list("aabbcc"), scan=[1, 2] * 3), table([0.0] * 6), tmp_path)
    assert document["total"]["mean_model"] == 0
    for key in ("icc_c1", "icc_a1", "slope", "r2"):
        assert document["total"][key] is None, key
    assert document["categories"]["kappa_quadratic"] is None
    assert document["categories"]["reclassified"] == 0
    assert document["glm"][0]["n_zero_reference"] == 6
    assert document["scan_rescan"]["reference"]["reason"] == "no difference in any pair"


def test_perfect_agreement_is_not_certain(cohort, tmp_path: Path) -> None:
    reference, _ = cohort
    document = written(reference, reference, tmp_path)
    assert document["total"]["icc_a1"] == 1
    assert document["total"]["icc_a1_ci"] == [None, None]
    assert document["total"]["icc_a1_ci_clustered"] == [None, None]
    assert document["categories"]["kappa_quadratic"] == 1
    assert document["categories"]["reclassification_rate_ci_clustered"] == [None, None]
    assert document["categories"]["reclassification_rate_ci"][1] > 0.05
    assert "same in all resamples" in document["categories"]["reasons"]["reclassification_rate_clustered"]


@pytest.mark.parametrize("constant", [0.0, 55.5])
def test_a_constant_model(cohort, tmp_path: Path, constant: float) -> None:
    reference, scores = cohort
    flat = scores.assign(**{column: constant for column in scores if column.startswith("agatston")})
    document = written(reference, flat, tmp_path)
    assert document["total"]["slope"] is None
    assert document["total"]["icc_a1"] == pytest.approx(0, abs=1e-9)
    assert document["total"]["reasons"]["regression"] == "model scores do not vary"


def test_a_constant_reference(cohort, tmp_path: Path) -> None:
    reference, scores = cohort
    flat = reference.assign(**{column: 120.0 for column in reference if column.startswith("agatston")})
    document = written(flat, scores, tmp_path)
    assert document["total"]["slope"] == 0
    assert document["total"]["r2"] is None


def test_mixed_trouble_leaves_the_other_tables(cohort, tmp_path: Path) -> None:
    reference, scores = (t.astype(object) for t in cohort)
    scores.loc[0, ["status", "flags", *[c for c in scores if c.startswith("agatston")]]] = ["failed", "no_heart", *[""] * 5]
    scores.loc[1, "agatston_total"] = math.nan
    reference.loc[2, "agatston_LM"] = "?"
    reference = pd.concat(
        [reference, reference.loc[[3]].assign(agatston_total=9.0), reference.loc[[4]].assign(case_id="extra")]
    )
    document = written(reference, scores, tmp_path)
    assert document["total"]["n"] == 27
    assert document["LM"]["n"] == 26
    assert document["n_left_out"] == 4
    assert "failed: no_heart" in [row["why"] for row in document["left_out"]]
    assert document["notes"][0].startswith("left out:")
    assert document["scan_rescan"]["n"] == 13
    text = study_summary(quick(reference, scores))
    assert "4 case(s) of the reference without a score are left out" in text


def test_a_vessel_without_scores(cohort, tmp_path: Path) -> None:
    reference, scores = cohort
    reference["agatston_LM"] = math.nan
    document = written(reference.drop(columns="agatston_RCA"), scores, tmp_path)
    assert document["LM"]["n"] == 0
    assert document["LM"]["mean_reference"] is None
    assert "RCA" not in document
    assert any("RCA" in note for note in document["notes"])
    assert document["LAD"]["n"] == 30


def test_nothing_to_compare_is_an_error(cohort) -> None:
    reference, scores = cohort
    with pytest.raises(ArgumentError, match="in common"):
        quick(reference.assign(case_id="x" + reference["case_id"]), scores)
