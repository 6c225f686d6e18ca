from __future__ import annotations

import math
import re

import pytest

from cacsnet.agreement.latex import escape, latex_table
from cacsnet.agreement.study import agreement_study
from cacsnet.agreement.tables import interval, mean_sd, number, p_value, p_words, strength, study_tables


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 50 % #1 $x {y}", r"a\_b \& 50 \% \#1 \$x \{y\}"),
        ("-4.2 to -1", "$-$4.2 to $-$1"),
        ("1-100", "1-100"),
        (">400", "$>$400"),
        ("352.6 ± 491", r"352.6 $\pm$ 491"),
        (r"C:\x~^", r"C:\textbackslash{}x\textasciitilde{}\textasciicircum{}"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_escapes(text: str, expected: str) -> None:
    assert escape(text) == expected


def test_latex_is_balanced_and_has_one_cell_per_column() -> None:
    text = latex_table("t", "A_caption", ["Name", "n"], [["x & y", "-1"], ["z", "2"]], ["100 %"])
    assert r"\begin{tabular}{lr}" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert [len(re.split(r"(?<!\\)&", line)) for line in body.strip().splitlines()] == [2, 2]
    assert r"A\_caption" in text


def test_numbers_as_text() -> None:
    assert (number(-0.04), number(-3.25, 2), number(math.nan)) == ("0.0", "-3.25", "–")
    assert (p_value(0.0004), p_value(0.0123), p_value(1.0), p_value(math.nan)) == ("<0.001", "0.012", "1.000", "–")
    assert (interval((1, 2)), interval((math.nan, 2))) == ("1.0 to 2.0", "–")
    assert (mean_sd(352.6, 491), mean_sd(3, math.nan)) == ("352.6 ± 491.0", "3.0")


def test_words_of_the_paper() -> None:
    """LM 0.635 and all others from 0.928."""
    assert [strength(v) for v in (0.1, 0.3, 0.5, 0.635, 0.928, math.nan)] == [
        *("poor", "fair", "moderate", "good", "excellent", "–"),
    ]


def test_cells_say_what_the_study_says(cohort) -> None:
    study = agreement_study(*cohort, resamples=30)
    tables = {table.name: table for table in study_tables(study)}
    for table in tables.values():
        assert all(len(row) == len(table.columns) for row in table.rows), table.name
        assert len(table.data) == len(table.rows), table.name
    total = study.parts["total"]
    scores = tables["scores"]
    assert scores.rows[0][2] == f"{total.mean_reference:.1f} ± {total.sd_reference:.1f}"
    assert scores.rows[0][3] == f"{total.mean_model:.1f} ± {total.sd_model:.1f}"
    icc = tables["icc"]
    assert icc.rows[0][icc.columns.index("ICC(A,1)")] == f"{total.icc.agreement:.3f}"
    assert icc.rows[0][icc.columns.index("ICC(C,1)")] == f"{total.icc.consistency:.3f}"
    counts = study.categories.confusion
    assert [[int(cell) for cell in row[1:5]] for row in tables["categories"].rows] == counts.tolist()
    assert len(tables["reclassified"].rows) == study.categories.reclassification.changed
    assert study.scan_rescan is not None
    first = tables["scan_rescan"].rows[0]
    assert first[2] == f"{study.scan_rescan.reference.mean:.1f} ± {study.scan_rescan.reference.sd:.1f}"


def test_a_reason_stands_once_with_all_that_share_it(cohort) -> None:
    reference, scores = (table[:2] for table in cohort)
    tables = {table.name: table for table in study_tables(agreement_study(reference, scores, resamples=10))}
    everyone = "total, LM, LAD, LCX, RCA"
    assert [note for note in tables["icc"].notes if "fewer" in note] == [
        f"{everyone}: fewer than 3 cases.", f"{everyone} clustered: fewer than 3 clusters."
    ]  # fmt: skip
    assert "none, linear, quadratic: fewer than 3 cases." in tables["kappa"].notes
    assert "Kappa of scan 1, Kappa of scan 2: fewer than 3 cases." in tables["scan_agreement"].notes


def test_p_in_a_sentence() -> None:
    assert [p_words(p) for p in (0.0004, 0.012, math.nan)] == ["p < 0.001", "p = 0.012", "p = –"]


def test_each_limit_of_agreement_has_a_row(cohort) -> None:
    study = agreement_study(*cohort, resamples=30)
    table = next(table for table in study_tables(study) if table.name == "bland_altman")
    assert len(table.rows) == 15
    found = study.parts["LCX"].bland_altman
    rows = [row for row in table.rows if row[0] == "LCX"]
    assert [row[2] for row in rows] == ["bias", "lower limit", "upper limit"]
    assert [row[3] for row in rows] == [f"{v:.1f}" for v in (found.bias, found.lower, found.upper)]
    data = table.data.set_index(["vessel", "what"])
    assert data.loc[("LCX", "loa_upper"), "value"] == found.upper
    assert data.loc[("LCX", "loa_upper"), "ci_low"] == found.upper_ci[0]
    assert data.loc[("LCX", "bias"), "ci_clustered_high"] == study.parts["LCX"].clustered["bias"].high
