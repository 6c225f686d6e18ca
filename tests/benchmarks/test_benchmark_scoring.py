"""The speed benchmark compares like with like and measures memory where it is used. No test is timed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))
SPEC = importlib.util.spec_from_file_location("benchmark_scoring", FOLDER / "scoring.py")
benchmark = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


def both(case):
    return [benchmark.way_of(name, case)() for name in ("cacsnet", "SimpleITK")]


@pytest.mark.parametrize(("lesions", "where"), [(0, "heart"), (30, "heart"), (30, "whole field")])
def test_both_ways_give_the_same_score(lesions, where):
    ours, theirs = both(benchmark.make_case(24, lesions, where, size=160))
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert (ours > 100) == (lesions > 0)


@pytest.mark.parametrize("spacing", [(3.0, 0.5, 0.5), (1.5, 0.4883, 0.4883), (2.5, 0.35, 0.7)])
def test_both_ways_give_the_same_score_of_dense_clutter(spacing):
    """Islands of all sizes that touch at corners, with peaks in all bands and at their edges."""
    rng = np.random.default_rng(0)
    edges = np.array([129, 130, 199, 200, 299, 300, 399, 400])
    hu = np.where(rng.random((6, 40, 40)) < 0.25, rng.choice(edges, (6, 40, 40)), 40).astype(np.int16)
    vessels = (rng.integers(1, 5, hu.shape) * (rng.random(hu.shape) < 0.8)).astype(np.uint8)
    ours, theirs = both(benchmark.Case(hu, vessels, spacing))
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert ours > 0


def test_a_case_holds_what_it_says():
    case = benchmark.make_case(60, 20, size=256)
    assert case.hu.shape == case.vessels.shape == (60, 256, 256)
    assert (case.hu.dtype, case.vessels.dtype) == (np.int16, np.uint8)
    assert set(np.unique(case.vessels)) == {0, 1, 2, 3, 4}
    assert 0.001 < (case.vessels > 0).mean() < 0.02  # arteries, not the whole heart
    assert (case.hu[case.vessels == 0] > 600).mean() > 0.005  # ribs that are not scored
    found = benchmark.score(case.hu, case.vessels, case.spacing_mm, 120).lesions
    assert 18 <= len(found) <= 20  # two may touch
    spread = benchmark.make_case(60, 20, "whole field", size=256).vessels
    extent = [[np.ptp(np.nonzero(labels)[axis]) for axis in (1, 2)] for labels in (case.vessels, spread)]
    assert max(extent[0]) < 150 < 200 < min(extent[1])
    other = benchmark.make_case(60, 20, size=256, seed=1)
    assert not np.array_equal(case.hu, other.hu)


MEASURED = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from scoring import extra_bytes

def call():
    first = np.ones(8_000_000)
    del first
    np.ones(5_000_000)

print(extra_bytes(call), extra_bytes(lambda: None))
"""


def test_extra_memory_counts_what_a_call_touches():
    # in a process of its own: where other tests have run, the allocator may hold free pages
    command = [sys.executable, "-c", MEASURED, str(FOLDER)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    extra, nothing = (int(n) for n in done.stdout.split())
    assert 62e6 < extra < 80e6  # the peak: 64 MB, not the sum and not what is left
    assert nothing < 5e6


def test_the_program_refuses_to_compare_different_scores(monkeypatch):
    case = benchmark.make_case(12, 5, size=96)
    monkeypatch.setattr(benchmark, "make_case", lambda *_: case)
    monkeypatch.setattr(benchmark, "score_cacsnet", lambda case: 1.0)
    with pytest.raises(SystemExit, match="the scores differ"):
        benchmark.compare(12, 5, "heart")
