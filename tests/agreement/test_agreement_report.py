from __future__ import annotations

import base64
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cacsnet.agreement import report
from cacsnet.agreement.figure_style import Picture
from cacsnet.agreement.study import Study, agreement_study
from cacsnet.agreement.tables import TABLE_NAMES, study_tables
from cacsnet.agreement.write import write_study

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
EVIL = '<script>alert("x")</script>&amp;\'"'


class Page(HTMLParser):
    """What stands in an HTML file."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []  # everything that was opened is closed, in order

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.words.append(data)
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


PICTURES = tuple(Picture(name, f"Title of {name}", f"Caption of {name}.", PNG) for name in report.FIGURE_NAMES)


@pytest.fixture
def study(cohort) -> Study:
    return agreement_study(*cohort, resamples=20)


def test_the_page_needs_nothing_beside_it(study) -> None:
    text = report.report_html(study, PICTURES)
    page = Page(text)
    images = page.all("img")
    assert len(images) == len(PICTURES)
    for image in images:
        assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == PNG
        assert image["alt"]
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "background"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#"))
        assert not any(name.startswith("on") for name in attributes)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    targets = {attributes["href"].removeprefix("#") for attributes in page.all("a")}
    assert targets <= {attributes.get("id") for _, attributes in page.tags}
    assert len(targets) >= 6


def test_all_tables_are_there_cell_by_cell(study) -> None:
    page = Page(report.report_html(study, ()))
    tables = study_tables(study)
    assert {table.name for table in tables} >= set(TABLE_NAMES) - {"lesions"}
    for table in tables:
        expected = [list(table.columns), *(list(row) for row in table.rows)]
        assert expected in page.tables
        assert f" {table.caption}" in page.words
        for note in table.notes:
            assert note in page.words
    numbers = [word for word in page.words if word.startswith("Table ")]
    assert numbers == [f"Table {i}." for i in range(1, len(tables) + 1)]


def test_a_table_or_figure_of_a_new_name_is_not_lost(study) -> None:
    tables = study_tables(study)
    new = replace(tables[0], name="brand_new")
    figure = Picture("brand_new", "t", "c", PNG)
    assert "Further results" not in [section.title for section in report.sections(PICTURES, tables)]
    found = report.sections((figure, *PICTURES), (*tables, new))
    assert found[-1].title == "Further results"
    assert [t.name for _, t in found[-1].tables] == ["brand_new"]
    assert [p.name for _, p in found[-1].figures] == ["brand_new"]
    assert sorted(i for section in found for i, _ in section.figures) == list(range(1, len(PICTURES) + 2))


def test_figures_stand_with_number_title_and_caption(study) -> None:
    page = Page(report.report_html(study, PICTURES))
    for i, one in enumerate(PICTURES, 1):
        assert f"Figure {i}. {one.title}." in page.words
        assert f" {one.caption}" in page.words


def test_texts_of_the_data_are_escaped(cohort) -> None:
    reference, scores = cohort
    ids = [f"{EVIL}{i}" for i in range(len(scores))]
    reference, scores = reference.assign(case_id=ids), scores.assign(case_id=ids)
    reference["scan"] = [f"{scan}{EVIL}" for scan in reference["scan"]]
    scores.loc[0, ["status", "flags"]] = "failed", f"why {EVIL}"
    scores.loc[1, "agatston_total"] = 5000.0
    study = agreement_study(reference, scores, resamples=20)
    study = replace(study, notes=(*study.notes, f"note {EVIL}"), missing={f"name {EVIL}": f"why {EVIL}"})
    pictures = (Picture("case_worst", f"Worst case: {EVIL}", f"Caption {EVIL}.", PNG),)
    text = report.report_html(study, pictures, [f"further {EVIL}"])
    assert "<script" not in text
    page = Page(text)
    assert any(row[0] == ids[1] for table in page.tables for row in table)  # shown as it is
    for expected in (f"note {EVIL}", f"further {EVIL}", f" Caption {EVIL}."):
        assert expected in page.words
    assert page.all("img")[0]["alt"] == f"Worst case: {EVIL}"


def test_notes_what_is_missing_and_who_is_left_out(cohort) -> None:
    reference, scores = cohort
    study = agreement_study(reference.drop(columns="scan").iloc[:-2], scores, resamples=20)
    page = Page(report.report_html(study, (), ["no pictures: a reason"]))
    words = "".join(page.words)
    for note in (*study.notes, "no pictures: a reason"):
        assert note in page.words
    assert study.missing
    for name, why in study.missing.items():
        assert f"{name.replace('_', ' ')}: {why}" in words
    for case in study.left_out.to_dict("records"):
        assert [case["case_id"], case["why"]] in page.tables[-1]
    assert "28 scans of 15 patients" not in words
    assert f"{len(study.pairs)} scans of {study.n_patients} patients; 2 cases left out" in words


def test_long_lists_of_left_out_cases_are_cut_and_say_so(study) -> None:
    many = pd.DataFrame({"case_id": [f"x{i:03}" for i in range(70)], "why": "no reason"})
    page = Page(report.report_html(replace(study, left_out=many), ()))
    assert len(page.tables[-1]) == 1 + report.SHOWN_LEFT_OUT
    assert f"the first {report.SHOWN_LEFT_OUT} of 70" in "".join(page.words)


def test_what_every_report_says(study) -> None:
    page = Page(report.report_html(study, ()))
    words = "".join(page.words)
    assert words.count("Research use only. Not a medical device.") == 2
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert page.all("html")[0]["lang"] == "en"
    assert "@media print" in words
    for name, value in report.versions().items():
        assert f"{name} {value}" in words
    for name, value in study.settings.items():
        assert f"{name} {value}" in words
    part = study.parts["total"]
    for value in (part.bland_altman.bias, part.bland_altman.lower, part.bland_altman.upper):
        assert f"{value:.1f}".replace("-", "−") in dict(report.key_numbers(study)).__str__()
    assert f"{part.icc.consistency:.3f}" in dict(report.key_numbers(study))["ICC(C,1), consistency"]
    assert f"{part.icc.agreement:.3f}" in dict(report.key_numbers(study))["ICC(A,1), absolute agreement"]


def test_what_scored_the_cases_is_named(study, tmp_path) -> None:
    for i, case_id in enumerate(study.pairs["case_id"]):
        (tmp_path / case_id).mkdir()
        run = {"checkpoint": "a.safetensors", "weights_sha256": "old" if i == 0 else "new", "versions": {"cacsnet": "1.2"}}
        document = {"run": run, "rules": {"profile": "canon"}} if i else {"run": run, "rules": {"profile": "siemens"}}
        (tmp_path / case_id / "scores.json").write_text(json.dumps(document) if i != 5 else "{")
    words = "".join(Page(report.report_html(replace(study, results=tmp_path), ())).words)
    assert "28 of 30 scans were scored by: checkpoint a.safetensors, weights SHA-256 new, scoring profile canon" in words
    assert "1 of 30 scans were scored by: checkpoint a.safetensors, weights SHA-256 old, scoring profile siemens" in words
    assert "not on record" not in words
    assert "not on record" in "".join(Page(report.report_html(study, ())).words)


@pytest.mark.parametrize(
    ("reference", "model"), [([12.0], [15.0]), ([0.0] * 5, [0.0] * 5), ([50.0] * 4, [60.0] * 4), ([0.0, np.nan], [1.0, 2.0])]
)
def test_degenerate_studies_have_a_report(reference, model) -> None:
    tables = [pd.DataFrame({"case_id": [f"c{i}" for i in range(len(v))], "agatston_total": v}) for v in (reference, model)]
    study = agreement_study(*tables, resamples=20)
    words = "".join(Page(report.report_html(study, ())).words)
    assert "nan" not in words.lower().replace("nanci", "")
    assert f"{len(study.pairs)} scan" in words


def test_files_of_a_report(study, tmp_path, monkeypatch) -> None:
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in ("case_best.png", "scan_rescan.pdf", "mine.png"):
        (figures / name).write_bytes(b"of an earlier study")
    drawn = (PICTURES[0], replace(PICTURES[1], pdf=b"%PDF"))
    monkeypatch.setattr(report, "study_figures", lambda study: drawn)
    path = report.write_report(study, tmp_path)
    assert path == tmp_path / "report.html"
    assert sorted(p.name for p in figures.iterdir()) == ["agreement.png", "mine.png", "vessels.pdf", "vessels.png"]
    text = path.read_text(encoding="utf-8")
    assert text == report.report_html(study, drawn, ["no pictures of cases: the scores have no case folders"])
    assert not [p for p in tmp_path.rglob("*") if ".tmp" in p.name]


def test_a_report_that_fails_leaves_no_old_one(study, tmp_path, monkeypatch) -> None:
    (tmp_path / "report.html").write_text("of an earlier study")

    def broken(study: Study) -> tuple[Picture, ...]:
        raise OSError("disk full")

    monkeypatch.setattr(report, "study_figures", broken)
    with pytest.raises(OSError, match="disk full"):
        report.write_report(study, tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_the_whole_report_of_a_small_study(study, tmp_path) -> None:
    path = report.write_report(study, tmp_path)
    page = Page(path.read_text(encoding="utf-8"))
    names = ["agreement", "confusion", "scan_rescan", "vessels"]
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == [f"{n}.{s}" for n in names for s in ("pdf", "png")]
    embedded = {base64.b64decode(image["src"].partition(",")[2]) for image in page.all("img")}
    assert embedded == {(tmp_path / "figures" / f"{name}.png").read_bytes() for name in names}


def test_a_study_as_files_has_tables_and_report(study, tmp_path, monkeypatch) -> None:
    given = {}
    monkeypatch.setattr(report, "study_pictures", lambda study, paths: (given.update(paths), (PICTURES[:1], ()))[1])
    path = write_study(study, tmp_path, {"p00-1": Path("map.nii.gz")})
    assert path == tmp_path / "agreement.json"
    assert given == {"p00-1": Path("map.nii.gz")}
    assert {"agreement.json", "scores.csv", "report.html", "figures"} <= {p.name for p in tmp_path.iterdir()}


def test_the_template_is_part_of_the_package() -> None:
    root = Path(report.__file__).parents[2]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("installed without its sources")
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert "report.html.j2" in project["tool"]["setuptools"]["package-data"]["cacsnet.agreement"]
    assert any(name.startswith("jinja2") for name in project["project"]["dependencies"])


def test_figures_share_one_scale_and_heads_stand_above_numbers(study) -> None:
    def picture(name: str, width: int) -> Picture:
        return Picture(name, "t", "c", b"\x89PNG" + bytes(12) + width.to_bytes(4, "big") + bytes(9))

    page = Page(report.report_html(study, [picture("agreement", 1420), picture("confusion", 923), picture("vessels", 5000)]))
    assert [image["style"] for image in page.all("img")] == ["width: 100%", "width: 100%", "width: 65%"]
    tables = {table.name: report._numeric_columns(table) for table in study_tables(study)}
    assert tables["regression"] == [False, *[True] * 7]
    assert tables["scores"] == [False, *[True] * 6, False]
