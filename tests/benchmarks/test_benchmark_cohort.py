"""A whole cohort judged in memory: what counts as false, kept, refused; intervals by patient; resuming."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import cohort  # noqa: E402

from cacsnet.errors import NoHeartError  # noqa: E402
from cacsnet.network.checkpoint import StageConfig, load_model, save_model  # noqa: E402
from cacsnet.phantom.cohort import Recipe, make_case  # noqa: E402
from cacsnet.training import judging  # noqa: E402

TINY = StageConfig(4.0, patch=16, widths=(2, 4))


def scan(reference, model, status="ok", **more):
    row = {"reference_total": reference, "status": status}
    row |= {f"reference_{name}": reference / 4 for name in cohort.VESSEL_NAMES}
    share = {"total": 1.0} | dict.fromkeys(cohort.VESSEL_NAMES, 0.25)
    row |= {f"agatston_{name}": part * model if status == "ok" else None for name, part in share.items()}
    return row | more


def table(*pairs):
    return cohort.table_of([{"patient_id": f"p{k}", "scans": scans} for k, scans in enumerate(pairs)])


PERFECT = table(*([scan(value, value)] for value in (0.0, 0.0, 50.0, 150.0, 500.0, 900.0)))


def test_a_perfect_model_reaches_every_target():
    found = cohort.figures(PERFECT.drop(columns="patient_id"))
    assert found["ICC(A,1) total"] == pytest.approx(1)
    assert found["quadratic kappa"] == pytest.approx(1)
    assert (found["reclassified"], found["false Agatston, median"], found["refused"]) == (0, 0, 0)
    assert all("reached" in cohort.met(name, found[name]) for name in cohort.TARGETS if name in found)


def test_a_refused_scan_counts_as_zero_in_the_agreement_and_not_as_right_without_calcium():
    refused = table([scan(0.0, 0.0, "enhanced_blood")], [scan(0.0, 8.0)], [scan(50.0, 50.0)], [scan(500.0, 0.0, "no_heart")])
    found = cohort.figures(refused.drop(columns="patient_id"))
    assert found["refused"] == 0.5
    assert found["reclassified"] == 0.5  # the second by false calcium, the last by its refusal
    assert found["false Agatston, median"] == 8  # without the refused one
    assert cohort.refusals(refused) in ("refused: 1 enhanced_blood, 1 no_heart", "refused: 1 no_heart, 1 enhanced_blood")
    alone = table([scan(10.0, 0.0, "no_heart")], [scan(0.0, 0.0, "no_heart")])
    assert math.isnan(cohort.figures(alone.drop(columns="patient_id"))["false Agatston, 95th percentile"])


def test_shares_are_of_all_scans_together():
    both = table(
        [scan(0.0, 0.0, amount_aortic_valve=900.0, kept_aortic_valve=0.0)],
        [scan(0.0, 5.0, amount_aortic_valve=100.0, kept_aortic_valve=100.0)],
        [scan(10.0, 10.0, amount_LAD=40.0, kept_LAD=30.0)],
    )
    found = cohort.figures(both.drop(columns="patient_id"))
    assert found["aortic_valve taken for coronary"] == pytest.approx(0.1)
    assert found["LAD kept"] == pytest.approx(0.75)
    assert "missed" in cohort.met("aortic_valve taken for coronary", 0.1)
    assert cohort.met("LAD kept", 0.75) == ""


def test_intervals_are_by_patient():
    """Ten scans of each patient say no more than one."""
    rng = np.random.default_rng(0)
    pairs = [(v, v * f) for v, f in zip(rng.uniform(0, 800, 30), rng.uniform(0.6, 1.4, 30), strict=True)]
    once, often = (table(*([scan(*pair)] * times for pair in pairs)) for times in (1, 10))
    (_, narrow), (_, wide) = (cohort.judged(frame, 200) for frame in (once, often))
    first, second = (found["ICC(A,1) total"].high - found["ICC(A,1) total"].low for found in (narrow, wide))
    assert second == pytest.approx(first, rel=0.15)


def test_the_table_has_targets_intervals_and_the_gap():
    worse = table(*([scan(value, 1.4 * value)] for value in (0.0, 0.0, 50.0, 150.0, 500.0, 900.0)))
    both = {"ellipsoid": PERFECT, "polar": worse}
    results = {model: cohort.judged(scans, 50) for model, scans in both.items()}
    text = cohort.markdown(both, results, "ellipsoid")
    assert "| ellipsoid | target | polar, never trained on | target | gap |" in text
    row = next(line for line in text.splitlines() if line.startswith("| ICC(A,1) total"))
    assert row.startswith("| ICC(A,1) total | 1.0000 | ≥ 0.9900: reached | ")  # no interval: the same in all resamples
    assert "≥ 0.9900: missed" in row
    assert " to " in row
    assert "6 scans of 6 patients, 2 without calcium, refused: none" in text
    assert "gap" not in cohort.markdown({"polar": PERFECT}, {"polar": results["ellipsoid"]}, "ellipsoid")


def test_figures_go_into_the_card_with_their_intervals_and_leave_the_rest(tmp_path, capsys):
    weights = save_model(tmp_path / "tiny.safetensors", {"coarse": (TINY, TINY.build().state_dict())}, {"name": "tiny"})

    def fake(planned, checkpoint):
        value = 10.0 * int(planned.patient_id[-2:])
        return {"patient_id": planned.patient_id, "scans": [scan(value, 1.1 * value)]}

    command = ["patients=12", "workers=1", f"cache={tmp_path / 'cache'}", f"checkpoint={weights}"]
    assert cohort.main([*command, "heart_model=polar"], fake) == 0
    assert "digital_cohorts" not in load_model(weights).card
    assert cohort.main([*command, "heart_model=polar", "card=true"], fake) == 0
    card = load_model(weights).card
    entry = card["digital_cohorts"]["sartoretti2022"]
    assert card["name"] == "tiny"
    assert entry["command"] == "python benchmarks/cohort.py cohort=sartoretti2022 patients=12 heart_model=polar"
    value, low, high = entry["polar"]["figures"]["ICC(A,1) total"]
    assert low < value < high < 1
    assert entry["polar"]["figures"]["false Agatston, median"] == [None, None, None]
    assert entry["polar"]["scans"] == 12
    assert cohort.main([*command, "card=perhaps"], fake) == 2
    assert "perhaps" in capsys.readouterr().err


def test_a_scan_is_scored_and_its_owners_told(monkeypatch):
    case = make_case(Recipe(49_999_999, agatston=300.0, matrix=160))
    model = SimpleNamespace()

    def as_reference(scan, *_):
        kept = np.where(case.truth.owner <= 4, case.truth.owner, 0)
        return SimpleNamespace(score=case.reference, vessel_map=kept)

    def refuse(*_):
        raise NoHeartError("no heart")

    monkeypatch.setattr(judging, "score_scan", as_reference)
    row = judging.judged_row(case, model, cohort.InferenceSettings())
    assert row["agatston_total"] == row["reference_total"] > 0
    vessels = [name for name in cohort.VESSEL_NAMES if f"amount_{name}" in row]
    assert vessels
    assert all(row[f"kept_{name}"] == row[f"amount_{name}"] for name in vessels)
    assert row["kept_nobody"] == 0
    monkeypatch.setattr(judging, "score_scan", refuse)
    refused = judging.judged_row(case, model, cohort.InferenceSettings())
    assert refused["status"] == "no_heart"
    assert all(refused[k] == v for k, v in row.items() if k.startswith("reference"))
    assert all(refused[k] is None for k in row if k.startswith("agatston"))
    assert not [k for k in refused if k.startswith(("amount", "kept"))]


def test_the_command_writes_its_page_and_goes_on_where_it_stopped(tmp_path, capsys):
    made = []

    def fake(planned, checkpoint):
        made.append(planned.patient_id)
        if len(made) == 4:
            raise KeyboardInterrupt
        value = 100.0 * len(made)
        return {"patient_id": planned.patient_id, "scans": [scan(value, value), scan(value, value + 1)]}

    page = tmp_path / "cohorts.md"
    page.write_text("<!-- sartoretti2022: start -->\n<!-- sartoretti2022: end -->\n")
    command = ["patients=5", "workers=1", f"cache={tmp_path / 'cache'}", f"docs={tmp_path}"]
    with pytest.raises(KeyboardInterrupt):
        cohort.main(command, fake)
    assert cohort.main(command, fake) == 0
    assert len(made) == 6
    assert len(set(made)) == 5
    text = page.read_text()
    assert "`python benchmarks/cohort.py cohort=sartoretti2022 patients=5 heart_model=ellipsoid`, weights" in text
    assert "10 scans of 5 patients" in text
    assert cohort.main(command, fake) == 0
    assert len(made) == 6
    for wrong in ("heart_model=square", "cohort=nobody", "patients=none"):
        assert cohort.main([*command, wrong], fake) == 2
        assert wrong.split("=")[1] in capsys.readouterr().err


def test_every_target_is_a_figure():
    rows = [scan(10.0 * k, 10.0 * k, **{f"amount_{n}": 1.0 for n in cohort.OWNER_NAMES.values()}) for k in range(5)]
    rows = [row | {name.replace("amount", "kept"): 0.0 for name in row if name.startswith("amount")} for row in rows]
    found = cohort.figures(pd.DataFrame(rows))
    assert set(cohort.TARGETS) <= set(found)
