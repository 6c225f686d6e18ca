"""A study of digital phantoms says in every table, figure and row that it isn't comparable with one of patients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cacsnet.agreement.compare import compare, comparison_document, comparison_tables
from cacsnet.agreement.document import study_document
from cacsnet.agreement.figure_style import Picture
from cacsnet.agreement.pairs import NOT_COMPARABLE, match
from cacsnet.agreement.replicate import main
from cacsnet.agreement.report import key_numbers, report_html
from cacsnet.agreement.study import agreement_study
from cacsnet.agreement.tables import study_summary, study_tables
from cacsnet.agreement.write import write_tables

MARK = "Not comparable: phantom."
PICTURE = Picture("agreement", "t", "caption.", b"\x89PNG" + bytes(12) + (1000).to_bytes(4, "big") + bytes(9))


def test_the_reference_says_what_it_is(cohort) -> None:
    reference, scores = cohort
    assert not match(reference, scores).phantom
    assert not match(reference.assign(source="manual"), scores).phantom
    assert match(reference.assign(source="phantom"), scores).phantom
    mixed = reference.assign(source=["phantom", *["manual"] * (len(reference) - 1)])
    assert match(mixed, scores).phantom
    assert not match(mixed, scores.iloc[1:]).phantom  # the only phantom isn't compared


@pytest.mark.parametrize("source", ["phantom", "manual"])
def test_every_table_figure_and_number_is_marked(cohort, tmp_path: Path, source: str) -> None:
    reference, scores = cohort
    reference = reference.assign(source=source)
    phantom = source == "phantom"
    study = agreement_study(reference, scores, resamples=10)
    found = compare(reference, scores, scores.assign(agatston_total=scores["agatston_total"] * 2), resamples=10)
    tables = (*study_tables(study), *comparison_tables(found))
    assert len(tables) >= 12
    assert {table.caption.endswith(f" {MARK}") for table in tables} == {phantom}
    write_tables(study, tmp_path)
    assert {MARK in path.read_text() for path in tmp_path.glob("*.tex")} == {phantom}
    assert study_document(study)["phantom"] is phantom
    assert comparison_document(found)["phantom"] is phantom
    text = report_html(study, (PICTURE,), (), found)
    assert text.count(f"<em>{NOT_COMPARABLE}</em>") == phantom * len(key_numbers(study))
    assert (f"caption. {MARK}" in text) is phantom
    assert ("Digital phantoms" in text) is phantom
    assert (NOT_COMPARABLE in study_summary(study)) is phantom


@pytest.mark.parametrize("source", ["phantom", "manual"])
def test_every_row_beside_the_paper_is_marked(cohort, tmp_path: Path, source: str) -> None:
    reference, scores = cohort
    study = write_tables(agreement_study(reference.assign(source=source), scores, resamples=10), tmp_path)
    assert main([str(study), f"output={tmp_path / 'page.md'}"]) == 0
    rows = [line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    assert {row.endswith(f"| {NOT_COMPARABLE} |") for row in rows} == {source == "phantom"}
    assert {row.count("|") for row in rows} == {7}
    assert json.loads(study.read_text())["phantom"] is (source == "phantom")
