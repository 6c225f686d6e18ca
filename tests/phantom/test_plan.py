"""Which patients the cohorts have: populations, the stress cohort, seeds that nothing else draws."""

import itertools

import numpy as np
import pytest
import yaml

from cacsnet.data.patches import seed_of
from cacsnet.errors import ConfigError
from cacsnet.phantom import plan as module
from cacsnet.phantom.deposits import DEVICES, DISTRACTORS
from cacsnet.phantom.examples import EXAMPLES
from cacsnet.phantom.plan import FIRST_SEED, SEEDS_PER_COHORT, cohort_names, heart_rates, plan_cohort
from cacsnet.scanner.profiles import profile_names
from cacsnet.training.evaluate import SPLITS, held_out_recipe
from cacsnet.training.validation import VALIDATION_SEED, validation_recipe


@pytest.fixture(scope="module")
def stress():
    return plan_cohort("stress")


@pytest.fixture(scope="module")
def study():
    return plan_cohort("sartoretti2022")


def target(planned):
    return planned.recipe.agatston


def test_the_study_has_56_patients_scanned_twice(study):
    assert len(study) == 56
    assert all([v.number for v in p.visits] == [1, 2] for p in study)
    assert {p.recipe.scanner for p in study} == {"ge_revolution"}
    assert all(p.recipe.own_scanner and p.recipe.gated and p.recipe.kvp == 120 for p in study)
    rates = np.array([[v.heart_rate_bpm for v in p.visits] for p in study])
    assert rates.mean(0) == pytest.approx([65.7, 58.9], abs=1.0)
    assert rates.std(0, ddof=1) == pytest.approx([13.4, 6.4], rel=0.15)


def test_heart_rates_of_a_patient_go_together():
    rates = heart_rates([[65.7, 13.4], [58.9, 6.4]], 0.6, 400, 1)
    assert np.corrcoef(rates.T)[0, 1] == pytest.approx(0.6, abs=0.08)


def test_a_shorter_study_is_drawn_anew_and_keeps_the_categories():
    few = plan_cohort("sartoretti2022", 9)
    totals = sorted(sum(target(p).values()) for p in few)
    assert len(few) == 9
    assert totals[0] < 40
    assert totals[3] <= 100 < totals[4]
    assert totals[-3] > 400


def test_keys_reach_the_recipes():
    for name in cohort_names():
        for planned in plan_cohort(name, 3, heart_model="polar", matrix=96):
            assert planned.recipe.heart_model == "polar"
            assert planned.recipe.matrix == 96


# -- stress ---------------------------------------------------------------------------------------------------------


def test_the_stress_cohort_has_every_distractor_device_and_scanner(stress):
    usual = module.USUAL_DISTRACTORS
    for kind in DISTRACTORS:
        many = [p for p in stress if p.recipe.distractors[kind] > 2 * usual[kind]]
        assert len(many) >= 5, kind
        assert any(target(p) == 0 for p in many)
        assert any(target(p) > 100 for p in many)
    for kind in DEVICES:
        with_it = [p for p in stress if p.recipe.devices.get(kind, 0) >= 1]
        assert any(target(p) == 0 for p in with_it)
        assert any(target(p) > 0 for p in with_it)
    assert {p.recipe.scanner for p in stress} >= set(profile_names())


def test_the_stress_cohort_has_the_extremes(stress):
    recipes = [p.recipe for p in stress]
    assert {r.kvp for r in recipes} >= {70, 80, 100, 120, 135}
    assert max(r.noise_hu or 0 for r in recipes) >= 30
    assert max(v.heart_rate_bpm or 0 for p in stress for v in p.visits) >= 100
    assert {r.gated for r in recipes} == {True, False}
    assert any(r.enhanced for r in recipes)
    assert max(r.agatston for r in recipes) >= 3000
    assert sum(0 < r.agatston <= 10 for r in recipes) >= 15
    assert min(r.increment_mm or 9 for r in recipes) <= 1.0
    assert max(r.increment_mm or 0 for r in recipes) >= 5.0


def test_at_least_200_scorable_scans_have_no_coronary_calcium(stress):
    zero = [p for p in stress if target(p) == 0 and not p.recipe.enhanced]
    assert len(zero) >= 200


def test_a_small_stress_cohort_is_spread_over_the_groups(stress):
    few = plan_cohort("stress", 12)
    assert len({p.patient_id.rsplit("-", 1)[0] for p in few}) >= 5
    whole = {p.patient_id: p.recipe for p in stress}
    assert all(whole[p.patient_id] == p.recipe for p in few)


# -- seeds ----------------------------------------------------------------------------------------------------------


def test_seeds_of_cohorts_are_never_trained_validated_or_held_out_on(stress, study):
    """Each split draws from ten million seeds of its own; cohorts lie above all of them."""
    assert (seed_of(0, 0), seed_of(1, 0)) == (0, VALIDATION_SEED)
    last = SEEDS_PER_COHORT - 1
    others = [seed_of(0, last), seed_of(1, last), validation_recipe(last, 64).seed, held_out_recipe(last).seed]
    assert others == sorted(others)
    assert others[-1] == SPLITS["held_out"] + last
    assert max(others) < min(r.seed for r in EXAMPLES.values())
    assert max(r.seed for r in EXAMPLES.values()) < FIRST_SEED
    assert min(p.recipe.seed for p in (*stress, *study)) >= FIRST_SEED


def test_no_two_patients_of_any_cohort_share_a_seed_or_a_name():
    plans = [plan_cohort(name) for name in cohort_names()]
    for key in (lambda p: p.recipe.seed, lambda p: p.patient_id):
        values = [key(p) for plan in plans for p in plan]
        assert len(set(values)) == len(values)
    ranges = [{p.recipe.seed // SEEDS_PER_COHORT for p in plan} for plan in plans]
    assert all(len(r) == 1 for r in ranges)
    assert all(not a & b for a, b in itertools.combinations(ranges, 2))


def test_a_plan_is_always_the_same():
    for name in cohort_names():
        assert plan_cohort(name, 4) == plan_cohort(name, 4)


# -- mistakes -------------------------------------------------------------------------------------------------------


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match=r"sartoretti2022, stress.*'rotterdam'"):
        plan_cohort("rotterdam")
    with pytest.raises(ConfigError, match="patients=0"):
        plan_cohort("stress", 0)


@pytest.mark.parametrize("seed", [0, 30_000_000, 41_000_000])
def test_a_cohort_can_not_take_seeds_of_the_splits(tmp_path, monkeypatch, seed):
    settings = yaml.safe_load((module.CONF / "stress.yaml").read_text()) | {"first_seed": seed}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(module, "CONF", tmp_path)
    with pytest.raises(ConfigError, match="first_seed"):
        plan_cohort("own")
