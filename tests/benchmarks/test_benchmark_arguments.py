"""Benchmarks say what is wrong with a command in one line, before they make or score anything."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.mark.parametrize(
    ("name", "argument", "named"),
    [
        ("reasons", "scans=0", "scans"),
        ("reasons", "first=-1", "first"),
        ("reasons", "matrix=8", "matrix"),
        ("reasons", "speed=1", "speed"),
        ("reasons", "checkpoint=none.safetensors", "none.safetensors"),
        ("vessel_filter", "patients=many", "patients"),
        ("vessel_filter", "scans=", "scans"),
        ("vessel_filter", "speed=1", "speed"),
        ("real_ct", "phantoms=1.5", "phantoms"),
    ],
)
def test_a_bad_command_ends_with_one_line_and_code_2(name, argument, named, capsys):
    assert importlib.import_module(name).main([argument]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1
