"""What the paper prints is recomputed from what else it prints; a number that doesn't follow is called so."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from cacsnet.agreement.compare import COMPARISON_FILES
from cacsnet.agreement.replicate import PAPER, main, rows
from cacsnet.agreement.report import FIGURE_NAMES
from cacsnet.agreement.study import agreement_study
from cacsnet.agreement.tables import TABLE_NAMES
from cacsnet.agreement.write import write_tables

PRINTED = yaml.safe_load(PAPER.read_text(encoding="utf-8"))


@pytest.fixture
def study(tmp_path, cohort) -> Path:
    return write_tables(agreement_study(*cohort, resamples=20), tmp_path / "agreement")


def by_name(paper=PRINTED, study=None):
    return {row.what: row for row in rows(paper, study or {})}


def test_what_follows_from_the_papers_own_numbers_is_reproduced():
    found = by_name()
    reproduced = {name for name, row in found.items() if row.verdict.startswith("reproduced")}
    iccs = {"ICC", "LM: ICC", "LAD: ICC", "LCX: ICC", "RCA: ICC", "first scan: ICC", "second scan: ICC"}
    rescan = {f"scan 1 against scan 2, {side}: ICC" for side in ("reference", "model")}
    assert reproduced == {f"{name} (95 % CI)" for name in iccs} | rescan | {
        "regression: slope; intercept; R²", "bias", "kappa", "reclassified"
    }  # fmt: skip
    assert found["regression: slope; intercept; R²"].printed == "1.1; -18; 0.98"  # as printed, no digit more
    assert "0.977 quadratic (0.962 linear, 0.945 none)" in found["kappa"].recomputed
    assert "3.57 % (1.4 to 8.8)" in found["reclassified"].recomputed
    assert "p = 0.44" in found["scan 1 - scan 2, reference"].recomputed
    assert "p = 0.08" in found["scan 1 - scan 2, model"].recomputed


def test_the_papers_z_test_is_not_reproducible():
    row = by_name()["reclassified, first against second scan"]
    assert row.verdict.startswith("not reproducible")
    assert row.recomputed == "z-test p = 0.31; McNemar exact p = 0.62 if no patient twice"


@pytest.mark.parametrize(
    ("path", "value", "row"),
    [
        (("kappa",), 0.975, "kappa"),
        (("reclassification_percent",), 3.4, "reclassified"),
        (("total", "bias"), 0.6, "bias"),
        (("total", "intercept"), -20, "regression: slope; intercept; R²"),
        (("total", "r2"), 0.95, "regression: slope; intercept; R²"),
        (("vessels", "LM", "icc_ci"), [0.44, 0.76], "LM: ICC (95 % CI)"),  # what ICC(A,1) would give
        (("scan_rescan", "model", "icc"), 0.985, "scan 1 against scan 2, model: ICC"),
    ],
)
def test_a_number_that_does_not_follow_is_not_called_reproduced(path, value, row):
    paper = copy.deepcopy(PRINTED)
    *folders, last = path
    place = paper
    for name in folders:
        place = place[name]
    place[last] = value
    assert not by_name(paper)[row].verdict.startswith("reproduced")


def test_the_studys_own_numbers_stand_beside(study, tmp_path, capsys):
    page = tmp_path / "page.md"
    assert main([str(study), f"output={page}"], Console(width=200)) == 0
    document = json.loads(study.read_text())
    text = page.read_text(encoding="utf-8")
    assert "30 scans of 15 patients" in text
    assert f"{document['LAD']['icc_c1']:.3f}" in text
    found = by_name(study=document)
    assert found["bias"].study == f"{document['total']['bias']:.2f}"
    assert found["kappa"].study == f"{document['categories']['kappa_quadratic']:.3f}"
    assert found["scan 1 - scan 2, model"].study.startswith(f"{document['scan_rescan']['model']['mean']:.1f} ±")
    assert "nan" not in text


def test_a_study_without_vessels_or_second_scans_leaves_dashes():
    found = by_name(study={"total": {"bias": 1.0}})
    assert found["bias"].study == "1.00"
    assert found["LM: ICC (95 % CI)"].study == "- (-)"
    assert found["reclassified"].study == "-"


def test_a_bad_command_is_refused(tmp_path, capsys):
    assert main([str(tmp_path / "no.json")]) == 2
    assert "no.json" in capsys.readouterr().err
    assert main(["a.json", "b.json"]) == 2
    for content in ("[]", "{}", "{"):
        (tmp_path / "odd.json").write_text(content)
        assert main([str(tmp_path / "odd.json")]) == 2


def test_the_docs_show_what_the_command_says(tmp_path):
    page = tmp_path / "page.md"
    assert main([f"output={page}"], Console(width=200)) == 0
    table = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows(PRINTED, {}))
    docs = (PAPER.parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
    assert "\n".join(table) in docs


def test_the_docs_name_every_key_and_file(study, cohort):
    docs = (PAPER.parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
    document = json.loads(study.read_text())
    parts = ("total", "LM", "LAD", "LCX", "RCA")
    keys = {*document, *document["total"], *document["categories"], *document["scan_rescan"], *document["glm"][0]} - {*parts}
    keys |= {*document["scan_rescan"]["reclassified"], *document["categories"]["cases"][0]}
    plain = {key.removesuffix("_clustered").removesuffix("_ci") for key in keys}
    assert len(plain) > 50
    assert {key for key in plain if f"`{key}`" not in docs} == set()
    assert {name for name in TABLE_NAMES if f"`{name}`" not in docs} == set()
    assert {name for name in (*COMPARISON_FILES, *FIGURE_NAMES) if f"`{name.removesuffix('.tex')}`" not in docs} - {
        *("comparison.csv", "changed_cases.csv")
    } == set()
