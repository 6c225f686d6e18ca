"""``make study``: its three commands, with a fake interpreter that writes down what it is asked and exits as told."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A finished environment whose python only writes down its arguments; infer.py exits with what ``code`` holds."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncase "$1" in infer.py) exit $(cat {tmp_path}/code);; esac\nexit 0\n'
    )
    python.chmod(0o755)
    (tmp_path / ".installed").touch()
    return tmp_path


def study(environment: Path, code: int, *settings: str) -> tuple[int, list[list[str]]]:
    (environment / "code").write_text(str(code))
    installed = environment / ".installed"
    command = ["make", "-o", str(installed), f"VENV={environment}", "study", *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, [line.split() for line in (environment / "asked").read_text().splitlines()]


def test_patients_workers_and_further_arguments_arrive(environment: Path) -> None:
    code, asked = study(environment, 0, "PATIENTS=7", "WORKERS=3", "ARGS=device=cpu")
    assert code == 0
    cohort, scores, beside = asked
    assert cohort[:2] == ["-m", "cacsnet.phantom"]
    assert {"cohort=sartoretti2022", "patients=7", "workers=3", "output=outputs/study-7/cohort"} <= set(cohort)
    assert scores[0] == "infer.py"
    assert {"input=outputs/study-7/cohort/manifest.csv", "reference=outputs/study-7/cohort/reference.csv"} <= set(scores)
    assert {"output=outputs/study-7/results", "device=cpu"} <= set(scores)
    assert beside[:3] == ["-m", "cacsnet.agreement.replicate", "outputs/study-7/results/agreement/agreement.json"]


def test_the_whole_cohort_by_default(environment: Path) -> None:
    _, asked = study(environment, 0)
    assert {"patients=56", "workers=2", "output=outputs/study-56/cohort"} <= set(asked[0])


@pytest.mark.parametrize(("code", "goes_on"), [(3, True), (2, False), (1, False), (137, False)])
def test_failed_scans_do_not_stop_it_but_a_bad_command_does(environment: Path, code: int, goes_on: bool) -> None:
    found, asked = study(environment, code)
    assert (found == 0) is goes_on
    assert len(asked) == (3 if goes_on else 2)
