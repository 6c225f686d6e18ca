from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from cacsnet.agreement.__main__ import main


@pytest.fixture
def files(cohort, tmp_path: Path) -> dict[str, str]:
    reference, scores = cohort
    other = scores.assign(agatston_total=scores["agatston_total"] * 1.5 + 10)
    paths = {}
    for name, table in (("ref", reference), ("scores", scores), ("other", other), ("bare", reference[:0])):
        paths[name] = str(tmp_path / f"{name}.csv")
        table.to_csv(paths[name], index=False)
    return paths | {"out": str(tmp_path / "out")}


@pytest.fixture(autouse=True)
def figures_once(request, monkeypatch):
    """Figures take seconds: they are drawn in one test."""
    if request.function is not test_a_study_of_two_tables:
        monkeypatch.setattr("cacsnet.agreement.report.write_report", lambda *arguments: None)


def run(*arguments: str) -> tuple[int, str]:
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    code = main([*arguments, "resamples=20"], console)
    console.file.close()
    return code, console.export_text()


def test_a_study_of_two_tables(files) -> None:
    code, text = run(files["scores"], files["ref"], f"output={files['out']}")
    assert code == 0
    document = json.loads((Path(files["out"]) / "agreement.json").read_text())
    assert document["total"]["n"] == 30
    assert document["settings"]["resamples"] == 20
    assert "Not a medical device" in (Path(files["out"]) / "report.html").read_text(encoding="utf-8")
    assert (Path(files["out"]) / "figures" / "agreement.png").is_file()
    assert "ICC(A,1)" in text
    assert "bias = reference - model" in text


def test_model_and_reference_are_not_swapped(files, cohort) -> None:
    run(files["scores"], files["ref"], f"output={files['out']}")
    total = json.loads((Path(files["out"]) / "agreement.json").read_text())["total"]
    assert total["mean_reference"] == pytest.approx(cohort[0]["agatston_total"].mean())
    assert total["mean_model"] == pytest.approx(cohort[1]["agatston_total"].mean())


def test_comparison_with_a_reference(files) -> None:
    code, text = run(files["scores"], files["ref"], f"compare={files['other']}", f"output={files['out']}")
    assert code == 0
    document = json.loads((Path(files["out"]) / "comparison.json").read_text())
    assert document["names"] == ["scores", "other"]
    assert document["total"]["mean_absolute_error"]["difference"] > 0
    assert "other against scores" in text


def test_tables_of_one_name_are_told_apart_by_their_folders(files, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "b").mkdir()
    Path(files["other"]).rename(tmp_path / "b" / "scores.csv")
    monkeypatch.chdir(tmp_path)
    run("scores.csv", files["ref"], "compare=b/scores.csv", f"output={files['out']}")
    names = json.loads((Path(files["out"]) / "comparison.json").read_text())["names"]
    assert names == [f"{tmp_path.name}/scores", "b/scores"]


def test_two_models_without_a_reference(files, cohort) -> None:
    code, text = run(files["scores"], f"compare={files['other']}", f"output={files['out']}")
    assert code == 0
    total = json.loads((Path(files["out"]) / "agreement.json").read_text())["total"]
    assert total["mean_reference"] == pytest.approx(cohort[1]["agatston_total"].mean())
    assert total["bias"] < 0
    assert "in place of a reference" in text
    assert not (Path(files["out"]) / "comparison.json").exists()


def test_covariates_from_a_manifest(files, cohort, tmp_path: Path) -> None:
    reference, _ = cohort
    reference.drop(columns=["heart_rate_bpm"]).to_csv(files["ref"], index=False)
    manifest = tmp_path / "manifest.csv"
    reference[["case_id", "heart_rate_bpm"]].assign(path="x").to_csv(manifest, index=False)
    assert run(files["scores"], files["ref"], f"manifest={manifest}", f"output={files['out']}")[0] == 0
    document = json.loads((Path(files["out"]) / "agreement.json").read_text())
    assert "heart_rate_bpm" in [c["name"] for c in document["glm"][0]["coefficients"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{scores}", "{ref}"], "output="),
        (["{scores}", "output={out}"], "reference table"),
        (["output={out}"], "reference table"),
        (["{scores}", "{ref}", "{other}", "output={out}"], "reference table"),
        (["{scores}", "/no/such.csv", "output={out}"], "no such file"),
        (["{scores}", "{ref}", "output={out}", "compere={other}"], "unknown key"),
        (["{scores}", "{ref}", "output={out}", "seed=-1"], "seed"),
        (["{scores}", "{ref}", "output={ref}"], "not a folder"),
        (["{scores}", "{bare}", "output={out}"], "in common"),
    ],
)
def test_bad_commands_say_what_is_wrong(files, arguments, message) -> None:
    code, text = run(*(argument.format(**files) for argument in arguments))
    assert code == 2
    assert message in text
    assert "Traceback" not in text
    assert not (Path(files["out"]) / "agreement.json").exists()


def test_a_file_that_is_no_table(files, tmp_path: Path) -> None:
    for content in (b"", b"\xff\xfe\x00", b'"a\n'):
        (tmp_path / "odd.csv").write_bytes(content)
        code, text = run(files["scores"], str(tmp_path / "odd.csv"), f"output={files['out']}")
        assert code == 2
        assert "error" in text


def test_the_module_runs_without_warnings_on_the_screen(files) -> None:
    command = [sys.executable, "-W", "error", "-m", "cacsnet.agreement", files["scores"], files["ref"]]
    done = subprocess.run([*command, f"output={files['out']}", "resamples=20"], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert (Path(files["out"]) / "agreement.json").is_file()


def test_a_comparison_that_fails_leaves_the_study(files, cohort, tmp_path: Path) -> None:
    Path(files["out"]).mkdir()
    (Path(files["out"]) / "comparison.json").write_text("of an earlier study")
    strangers = tmp_path / "strangers.csv"
    cohort[1].assign(case_id="x").head(1).to_csv(strangers, index=False)
    code, text = run(files["scores"], files["ref"], f"compare={strangers}", f"output={files['out']}")
    assert code == 2
    assert "no comparison with strangers.csv: reference and scores have no case in common" in text
    document = json.loads((Path(files["out"]) / "agreement.json").read_text())
    assert document["total"]["n"] == 30
    assert "no case in common" in document["missing"]["comparison"]
    assert not (Path(files["out"]) / "comparison.json").exists()


def test_a_study_of_two_models_says_that_there_is_no_reference(files) -> None:
    run(files["scores"], f"compare={files['other']}", f"output={files['out']}")
    notes = json.loads((Path(files["out"]) / "agreement.json").read_text())["notes"]
    assert notes[0] == "agreement of other.csv (model) with scores.csv (in place of a reference)"


SCORES = [f"agatston_{part}" for part in ("total", "LM", "LAD", "LCX", "RCA")]
FAILED = {"status": "failed", "flags": "no_heart", **dict.fromkeys(SCORES)}


def failed(scores: pd.DataFrame, rows: slice) -> pd.DataFrame:
    scores = scores.astype(object)
    scores.loc[scores.index[rows], list(FAILED)] = list(FAILED.values())
    return scores


def changed(table: pd.DataFrame, row: int, column: str, value: object) -> pd.DataFrame:
    table = table.astype(object)
    table.loc[row, column] = value
    return table


def constant(table: pd.DataFrame, value: float) -> pd.DataFrame:
    return table.assign(**dict.fromkeys(SCORES, value))


DEGENERATE = {
    "one case": (lambda r, s: (r[:1], s[:1]), "total: ICC: fewer than 3 cases; kappa: fewer than 3 cases"),
    "all zeros": (lambda r, s: (constant(r, 0.0), constant(s, 0.0)), "ICC: scores do not vary between cases"),
    "zero reference": (lambda r, s: (constant(r, 0.0), s), "no glm (reference): no predictor is known and varies"),
    "zero model": (lambda r, s: (r, constant(s, 0.0)), "no glm (reference): the percentage difference does not vary"),
    "constant": (lambda r, s: (constant(r, 50.0), constant(s, 60.0)), "kappa: all cases are in one category"),
    "missing rows": (lambda r, s: (r[:7], s), "left out: 23 case(s) not in the reference"),
    "extra rows": (lambda r, s: (r, s[:7]), "left out: 23 case(s) not in the scores"),
    "twice, alike": (lambda r, s: (r, pd.concat([s, s[:1]])), "1 row(s) of the scores table repeat another"),
    "twice, unlike": (
        lambda r, s: (pd.concat([r, constant(r[:1], 5.0)]), s),
        "1 case(s) stands more than once in the reference, with different rows",
    ),
    "failed": (lambda r, s: (r, failed(s, slice(2))), "left out: 2 case(s) failed"),
    "nan": (lambda r, s: (changed(r, 4, "agatston_total", None), s), "1 case(s) no total score in the reference"),
    "inf": (
        lambda r, s: (r, changed(s, 4, "agatston_total", "inf")),
        "no score in agatston_total of the scores: 'inf' (p02-1)",
    ),
    "text": (lambda r, s: (changed(r, 4, "agatston_LM", "?"), s), "no score in agatston_LM of the reference: '?' (p02-1)"),
    "no id": (lambda r, s: (changed(r, 0, "case_id", None), s), "1 row(s) of the reference table have no case_id"),
    "totals only": (
        lambda r, s: (r[["case_id", "agatston_total"]], s[["case_id", "agatston_total"]]),
        "not compared, since a table has no such column: LM, LAD, LCX, RCA",
    ),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_tables_say_so_and_the_rest_is_written(cohort, tmp_path: Path, name: str, capfd) -> None:
    """Warnings are errors here."""
    change, message = DEGENERATE[name]
    for file, table in zip(("ref", "scores"), change(*cohort), strict=True):
        table.to_csv(tmp_path / f"{file}.csv", index=False)
    code, text = run(str(tmp_path / "scores.csv"), str(tmp_path / "ref.csv"), f"output={tmp_path / 'out'}")
    assert code == 0
    assert message in text
    written = {path.stem for path in (tmp_path / "out").glob("*.tex")}
    assert written >= {"scores", "regression", "bland_altman", "icc", "categories", "kappa", "reclassified", "glm"}
    assert "NaN" not in (tmp_path / "out" / "agreement.json").read_text()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, s: (r, failed(s, slice(None))), "no case in common that both score (failed: no_heart)"),
        (lambda r, s: (r.assign(agatston_total=None), s), "that both score (no total score in the reference)"),
        (lambda r, s: (r.drop(columns="agatston_total"), s), "the reference table has no column agatston_total"),
        (lambda r, s: (r, s.drop(columns="case_id")), "the scores table has no column case_id"),
    ],
)
def test_tables_without_anything_to_compare_are_refused(cohort, tmp_path: Path, change, message: str) -> None:
    for file, table in zip(("ref", "scores"), change(*cohort), strict=True):
        table.to_csv(tmp_path / f"{file}.csv", index=False)
    code, text = run(str(tmp_path / "scores.csv"), str(tmp_path / "ref.csv"), f"output={tmp_path / 'out'}")
    assert code == 2
    assert message in text
