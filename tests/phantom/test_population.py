"""How much calcium a patient has: strata, splits and cohorts reproduce what is published."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from cacsnet.agreement.statistics import category_indices
from cacsnet.errors import ConfigError
from cacsnet.labels import VESSEL_NAMES
from cacsnet.phantom import population as module
from cacsnet.phantom.population import (
    Population,
    Split,
    Stratum,
    draw_cohort_targets,
    draw_site_target,
    draw_targets,
    load_population,
    spread_total,
)


def table(targets):
    return np.array([[row[name] for name in VESSEL_NAMES] for row in targets])


def shares_of_categories(totals):
    return np.bincount(category_indices(totals), minlength=4) / len(totals)


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(1)
    names = ("sartoretti2022", "balanced", "patches")
    return {name: table([draw_targets(load_population(name), rng) for _ in range(5000)]) for name in names}


def test_the_papers_population_comes_out(drawn):
    """Means, standard deviations and categories of its first table, from the published figures in the file."""
    people, found = load_population("sartoretti2022"), drawn["sartoretti2022"]
    for column, name in enumerate(VESSEL_NAMES):
        mean, sd = people.paper[name]
        assert found[:, column].mean() == pytest.approx(mean, rel=0.10), name
        assert found[:, column].std() == pytest.approx(sd, rel=0.12), name
    mean, sd = people.paper["total"]
    assert found.sum(1).mean() == pytest.approx(mean, rel=0.06)
    assert found.sum(1).std() == pytest.approx(sd, rel=0.08)  # together with the vessels' SDs: their correlation
    counts = np.array(people.paper["categories"])
    assert shares_of_categories(found.sum(1)) == pytest.approx(counts / counts.sum(), abs=0.03)


def test_vessels_are_correlated(drawn):
    correlation = np.corrcoef(drawn["sartoretti2022"].T)
    assert (correlation[~np.eye(4, dtype=bool)] > 0.2).all()


@pytest.mark.parametrize("name", ["balanced", "patches"])
def test_zeros_and_small_scores_are_oversampled_for_training_and_validation(drawn, name):
    totals = {name: rows.sum(1) for name, rows in drawn.items()}
    for low, high, least in ((0, 0, 0.10), (0.001, 10, 0.16)):
        share = {name: ((t >= low) & (t <= high)).mean() for name, t in totals.items()}
        assert share[name] >= least
        assert share[name] > 2 * share["sartoretti2022"]
    assert (totals[name] > 400).mean() > 0.1
    assert ((drawn[name] > 0).mean(0) > 0.25).all()  # every vessel often


def test_small_totals_sit_in_one_vessel(drawn):
    rows = drawn["balanced"]
    rows = rows[rows.sum(1) > 0]
    vessels, total = (rows > 0).sum(1), rows.sum(1)
    assert vessels[total < 10].mean() < 1.6
    assert vessels[total > 400].mean() > 2.5


def test_a_vessel_has_something_to_see_or_nothing(drawn):
    for name, rows in drawn.items():
        people = load_population(name)
        assert rows[rows > 0].min() >= people.smallest - 1e-9
        largest = {split.vessel: split.largest for split in people.splits}
        assert (rows.max(0) <= [largest[n] + people.smallest * 3 for n in VESSEL_NAMES]).all()
        assert np.isfinite(largest["LM"])


def test_a_split_adds_up_to_the_total():
    people = load_population("sartoretti2022")
    rng = np.random.default_rng(0)
    for total in (1.6, 12.0, 350.0, 3000.0):
        assert sum(people.split(total, rng.random(3)).values()) == pytest.approx(total)
    assert people.split(0.0, rng.random(3)) == dict.fromkeys(VESSEL_NAMES, 0.0)


@pytest.mark.parametrize(
    "stratum", [Stratum(1.0, 4, 100, 0.3), Stratum(1.0, 100, 400), Stratum(1.0, 400, shape=0.84, scale=592.0)]
)
def test_quantiles_rise_from_the_lower_end(stratum):
    values = [stratum.quantile(u) for u in np.linspace(0, 0.99, 30)]
    assert values[0] == pytest.approx(stratum.low)
    assert values == sorted(values)
    if stratum.high is not None:
        assert stratum.quantile(1.0) == pytest.approx(stratum.high)


def test_log_uniform_and_power_laws_have_their_medians():
    assert Stratum(1.0, 10, 1000).quantile(0.5) == pytest.approx(100)
    assert Stratum(1.0, 0.0001, 100, power=1.0).quantile(0.5) == pytest.approx(50, rel=1e-3)  # uniform


def test_any_few_patients_of_the_sequence_spread_over_the_strata():
    people = load_population("balanced")
    totals = np.array([spread_total(people, number) for number in range(64)])
    assert totals[0] == 0
    for few in (totals[:16], totals[20:36], totals[48:]):
        assert (few == 0).any()
        assert ((few > 0) & (few <= 10)).any()
        assert (shares_of_categories(few) > 0).all()
    assert (totals == 0).mean() == pytest.approx(people.zero, abs=0.03)


@pytest.mark.parametrize("patients", [30, 56])
def test_a_cohort_has_the_populations_figures_however_small(patients):
    people = load_population("sartoretti2022")
    found = table(draw_cohort_targets(people, patients, 7))
    assert len(found) == patients
    for column, name in enumerate(VESSEL_NAMES):
        assert found[:, column].mean() == pytest.approx(people.paper[name][0], rel=0.35), name
    assert found.sum(1).mean() == pytest.approx(people.paper["total"][0], rel=0.1)
    counts = np.array(people.paper["categories"])
    assert np.abs(shares_of_categories(found.sum(1)) - counts / counts.sum()).max() < 0.05


def test_a_cohort_is_the_same_each_time_and_another_for_another_seed():
    people = load_population("sartoretti2022")
    first, again, other = (draw_cohort_targets(people, 5, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_of_several_designs_the_best_is_taken(monkeypatch):
    people = load_population("sartoretti2022")
    mean = table([draw_targets(people, np.random.default_rng(k)) for k in range(3000)]).mean(0)

    def off(targets):
        return np.abs(np.log(table(targets).mean(0) / mean)).sum()

    chosen = [off(draw_cohort_targets(people, 40, seed)) for seed in range(4)]
    designed = [off(module._designed(people, 40, np.random.default_rng(seed))) for seed in range(12)]
    assert np.mean(chosen) < 0.7 * np.mean(designed)


def test_a_calcified_place_scores_like_a_calcified_vessel():
    people = load_population("balanced")
    rng = np.random.default_rng(0)
    places = np.array([draw_site_target(people, rng) for _ in range(1500)])
    vessels = table([draw_targets(people, rng) for _ in range(1500)])
    assert places.min() >= people.smallest
    assert ks_2samp(places, vessels[vessels > 0]).statistic < 0.08


def test_unknown_and_broken_populations_are_named():
    with pytest.raises(ConfigError, match=r"known are balanced, .*sartoretti2022.*'nobody'"):
        load_population("nobody")
    splits = tuple(Split(name) for name in VESSEL_NAMES)
    with pytest.raises(ConfigError, match="add up to 1"):
        Population("x", 0.5, (Stratum(0.4, 1, 2),), splits, 1.0, {})
    with pytest.raises(ConfigError, match="each vessel once"):
        Population("x", 0.0, (Stratum(1.0, 1, 2),), splits[1:], 1.0, {})


def test_a_misspelt_setting_is_named(tmp_path, monkeypatch):
    text = (module.CONF / "balanced.yaml").read_text().replace("heavy: 2.5", "hevy: 2.5", 1)
    (tmp_path / "own.yaml").write_text(text)
    monkeypatch.setattr(module, "CONF", tmp_path)
    with pytest.raises(ConfigError, match="hevy"):
        load_population("own")
