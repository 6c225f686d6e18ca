from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
