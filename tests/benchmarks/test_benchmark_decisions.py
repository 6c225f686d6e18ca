"""Experiments: a difference counts only if no seed contradicts it; questions are runs that exist."""

import sys
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from cacsnet.training.sweep import composed

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import decisions  # noqa: E402
import pages  # noqa: E402

from cacsnet.errors import ConfigError  # noqa: E402

QUESTIONS = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "decisions.yaml"))


def test_a_variant_wins_only_if_all_its_seeds_do():
    assert decisions.verdict({"a": [0.9, 0.8], "b": [0.7, 0.6]}, True) == "a"
    assert decisions.verdict({"a": [0.9, 0.6], "b": [0.7, 0.5]}, True) == "open"
    assert decisions.verdict({"a": [0.9, 0.8], "b": [0.7, 0.6]}, False) == "b"
    assert decisions.verdict({"a": [0.5, 0.5], "b": [0.5, 0.5]}, True) == "open"


def test_the_table_shows_every_seed_and_leaves_out_what_was_not_judged():
    found = {"a": [{"icc_total": 0.9}, {"icc_total": 0.8}], "b": [{"icc_total": 0.7}, {"icc_total": 0.6}]}
    text = decisions.table(found)
    assert "| ICC(A,1) total | 0.900, 0.800 | 0.700, 0.600 | a |" in text
    assert "real" not in text


def test_figures_count_what_is_kept_wrongly():
    row = {"reference_total": 10.0, "agatston_total": 10.0, "amount_LAD": 10.0, "kept_LAD": 8.0, "named_LAD": 4.0}
    row |= {"amount_nobody": 9.0, "kept_nobody": 1.0, "amount_aorta": 9.0, "kept_aorta": 1.0}
    vessels = {f"{what}_{v}": 1.0 for v in decisions.VESSEL_NAMES for what in ("reference", "agatston")}
    rows = pd.DataFrame([row | vessels, row | vessels | {"reference_total": 90.0, "agatston_total": 90.0}, row | vessels])
    found = decisions.figures(rows)
    assert found["icc_total"] == pytest.approx(1.0)
    assert found["true_kept"] == 0.8
    assert found["right_vessel_of_kept"] == 0.5
    assert found["false_among_kept"] == pytest.approx(2 / 10)


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_every_question_is_a_run_that_train_py_accepts(name):
    variants = QUESTIONS[name]["variants"]
    assert len(variants) >= 2
    name = QUESTIONS[name].get("stage", "coarse")
    configs = [composed([*decisions.EXPERIMENTS[name], *overrides]) for overrides in variants.values()]
    assert all(a != b for k, a in enumerate(configs) for b in configs[:k])
    for config in configs:
        assert list(config["stages"]) == [name]
        stage = config["stages"][name]
        assert stage["model"]["spacing_mm"] == stage["data"]["patches"]["spacing_mm"]


def test_an_unknown_question_is_refused(capsys):
    assert decisions.main(["question=why"]) == 2
    assert "maps" in capsys.readouterr().err


def test_a_page_keeps_what_stands_around_the_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a: start -->\nold\n<!-- a: end -->\nafter\n", encoding="utf-8")
    pages.write_between(page, "a", "new")
    assert page.read_text(encoding="utf-8") == "before\n<!-- a: start -->\n\nnew\n\n<!-- a: end -->\nafter\n"
    with pytest.raises(ConfigError, match="marks"):
        pages.write_between(page, "b", "new")


@pytest.mark.parametrize("bad", ["steps=many", "seeds=0", "scans=-1", "workers=1.5", "question=none", "heart_model=cube"])
def test_a_bad_command_is_refused_before_anything_is_trained(bad, monkeypatch, capsys):
    monkeypatch.setattr(decisions, "train", lambda *_: pytest.fail("trained"))
    assert decisions.main([bad]) == 2
    assert bad.split("=")[0] in capsys.readouterr().err
