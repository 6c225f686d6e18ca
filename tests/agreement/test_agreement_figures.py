from __future__ import annotations

import json
import warnings
from itertools import pairwise
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from cacsnet.agreement import figures, panels
from cacsnet.agreement.figure_style import CATEGORY_STYLES, Picture, picture, study_style
from cacsnet.agreement.label_maps import label_paths
from cacsnet.agreement.overlays import (
    Maps,
    case_pictures,
    choose_cases,
    overlay_figure,
    pick_field,
    pick_slices,
    read_maps,
)
from cacsnet.agreement.statistics import bland_altman, regression
from cacsnet.agreement.study import Study, agreement_study
from cacsnet.labels import VESSEL_NAMES
from cacsnet.scoring.categories import RISK_CATEGORIES


@pytest.fixture
def study(cohort) -> Study:
    return agreement_study(*cohort, resamples=20)


def drawn(maker, study: Study) -> Figure:
    with study_style():
        return maker(study)


def points(axes: Axes, without: tuple[str, ...] = ("reclassified",)) -> np.ndarray:
    """Sorted x, y of all markers."""
    found = [c.get_offsets() for c in axes.collections if isinstance(c, PathCollection) and c.get_label() not in without]
    return np.array(sorted(map(tuple, np.concatenate(found))))


def pairs_sorted(x, y) -> np.ndarray:
    return np.array(sorted(zip(x, y, strict=True)))


def line_at(axes: Axes, label: str) -> float:
    line = next(line for line in axes.lines if line.get_label() == label)
    return float(np.asarray(line.get_ydata())[0])


def band(axes: Axes, label: str) -> tuple[float, float]:
    patch = next(patch for patch in axes.patches if patch.get_label() == label)
    return patch.get_y(), patch.get_y() + patch.get_height()


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


# ---- the total


def test_every_pair_is_drawn(study) -> None:
    a, b, c = drawn(figures.agreement_figure, study).axes
    table = study.pairs
    reference, model = table["reference_total"], table["model_total"]
    np.testing.assert_allclose(points(a), pairs_sorted(model, reference))
    np.testing.assert_allclose(points(b), pairs_sorted((reference + model) / 2, reference - model))
    np.testing.assert_allclose(np.sort(points(c)[:, 1]), np.sort([*reference, *model]))
    joined = np.concatenate([lines.get_segments() for lines in c.collections if hasattr(lines, "get_segments")])
    np.testing.assert_allclose(pairs_sorted(joined[:, 0, 1], joined[:, 1, 1]), pairs_sorted(reference, model))


def test_scores_stand_at_the_category_of_the_reference(study) -> None:
    c = drawn(figures.agreement_figure, study).axes[2]
    joined = np.concatenate([lines.get_segments() for lines in c.collections if hasattr(lines, "get_segments")])
    place = {score: round(float(x)) for x, score in joined.mean(axis=1) * [1, 0] + joined[:, 0] * [0, 1]}
    for row in study.pairs.itertuples():
        assert RISK_CATEGORIES[place[row.reference_total]] == row.reference_category
    counts = study.pairs["reference_category"].value_counts()
    assert [t.get_text() for t in c.get_xticklabels()] == [f"{name}\n(n = {counts.get(name, 0)})" for name in RISK_CATEGORIES]


def test_drawn_limits_are_the_numbers_of_the_study(study) -> None:
    b = drawn(figures.agreement_figure, study).axes[1]
    found = study.parts["total"].bland_altman
    for label, value, ci in (
        ("bias", found.bias, found.bias_ci),
        ("lower limit", found.lower, found.lower_ci),
        ("upper limit", found.upper, found.upper_ci),
    ):
        assert line_at(b, label) == value
        assert band(b, f"interval of the {label}") == pytest.approx(ci)
        assert any(f"{label}\n{value:.1f}".replace("-", "−") in text.get_text() for text in b.texts)
    low, high = b.get_ylim()
    assert low < min(found.lower_ci[0], study.pairs["difference"].min())
    assert high > max(found.upper_ci[1], study.pairs["difference"].max())


def test_regression_is_that_of_the_study_and_its_band_that_of_statsmodels(study) -> None:
    a = drawn(figures.agreement_figure, study).axes[0]
    fit = study.parts["total"].regression
    line = next(line for line in a.lines if line.get_label() == "regression")
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    np.testing.assert_allclose(y, fit.slope * x + fit.intercept)
    reference, model = figures.part_scores(study, "total")
    oracle = sm.OLS(reference, sm.add_constant(model)).fit().get_prediction(sm.add_constant(x)).conf_int(alpha=0.05)
    np.testing.assert_allclose(np.column_stack(panels.mean_band(reference, model, fit, x)), oracle)
    identity = next(line for line in a.lines if line.get_label() == "identity")
    assert list(identity.get_xdata()) == list(identity.get_ydata())
    assert a.get_xlim() == a.get_ylim()


def test_words_of_a_regression() -> None:
    fit = regression([1.0, 2.0, 4.0], [10.0, 11.0, 13.5])
    sign = "−" if fit.intercept < 0 else "+"
    expected = f"y = {fit.slope:.2f} x {sign} {abs(fit.intercept):.1f}, R² = {fit.r_squared:.3f}, n = 3"
    assert panels.regression_words(fit) == expected
    assert sign == "−"
    assert panels.regression_words(regression([1.0, 2.0, 3.0], [5.0, 5.0, 5.0])) == "n = 3"


def test_reclassified_scans_are_ringed(study) -> None:
    moved = study.pairs[study.pairs["reference_category"] != study.pairs["model_category"]]
    assert len(moved)
    a = drawn(figures.agreement_figure, study).axes[0]
    ring = next(c for c in a.collections if c.get_label() == "reclassified")
    np.testing.assert_allclose(
        pairs_sorted(*np.asarray(ring.get_offsets()).T), pairs_sorted(moved["model_total"], moved["reference_total"])
    )


def test_categories_differ_in_shape_and_in_grey() -> None:
    assert tuple(CATEGORY_STYLES) == RISK_CATEGORIES
    assert len({marker for marker, _ in CATEGORY_STYLES.values()}) == len(RISK_CATEGORIES)

    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    shades = [luminance(colour) for _, colour in CATEGORY_STYLES.values()]
    assert all(darker < lighter - 0.15 for lighter, darker in pairwise(shades))


def test_points_are_in_the_style_of_their_category(study) -> None:
    a = drawn(figures.agreement_figure, study).axes[0]
    table = study.pairs
    for name, (_, colour) in CATEGORY_STYLES.items():
        here = table[table["reference_category"] == name]
        found = [c for c in a.collections if c.get_label() == name]
        assert len(found) == (1 if len(here) else 0)
        if found:
            assert to_rgb(colour) == tuple(found[0].get_facecolor()[0][:3])
            np.testing.assert_allclose(
                pairs_sorted(*np.asarray(found[0].get_offsets()).T), pairs_sorted(here["model_total"], here["reference_total"])
            )
    shapes = {c.get_paths()[0].vertices.tobytes() for c in a.collections if c.get_label() in CATEGORY_STYLES}
    assert len(shapes) == table["reference_category"].nunique()


def test_lines_differ_without_colour(study) -> None:
    b = drawn(figures.agreement_figure, study).axes[1]
    styles = {line.get_label(): line.get_linestyle() for line in b.lines}
    assert styles["bias"] == "-"
    assert styles["upper limit"] == styles["lower limit"] == "--"


@pytest.mark.parametrize("offset", [0.0, -90.0, 90.0])
def test_numbers_beside_the_lines_do_not_touch(offset: float) -> None:
    rng = np.random.default_rng(1)
    first = rng.uniform(0, 500, 60)
    second = first - rng.normal(0, 0.3, 60)
    second[0] = first[0] + offset  # limits close together, at an end of the axis
    with study_style():
        axes = Figure().subplots()
        panels.draw_bland_altman(axes, first, second, bland_altman(first, second), room=0.3)
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert len(heights) == 3
    assert np.diff(heights) == pytest.approx([max(0.3, h) for h in np.diff(heights)])
    assert heights[0] >= -1e-9
    assert heights[-1] <= 1 + 1e-9


def test_rounding_does_not_look_like_deviation() -> None:
    first = np.array([0.0, 10.0, 600.0, 700.0])
    second = first + np.array([0, 1e-5, -1e-5, 0])
    axes = Figure().subplots()
    panels.draw_bland_altman(axes, first, second, bland_altman(first, second))
    assert axes.get_ylim()[0] <= -1
    assert axes.get_ylim()[1] >= 1


# ---- the other figures


def test_the_caption_says_how_many_are_ringed(cohort) -> None:
    reference, scores = cohort
    for table, words in ((reference, "puts no scan in another category"), (scores, "Ringed: the ")):
        study = agreement_study(reference, table, resamples=10)
        caption = figures.figure_words(figures.agreement_figure, study)[2]
        assert words in caption
        assert ("Ringed" in caption) is bool(study.categories.reclassification.changed)


def test_each_vessel_has_its_own_numbers(cohort) -> None:
    reference, scores = cohort
    reference.loc[3, "agatston_LCX"] = np.nan
    study = agreement_study(reference, scores, resamples=20)
    axes = drawn(figures.vessels_figure, study).axes
    assert len(axes) == 2 * len(VESSEL_NAMES)
    for row, name in enumerate(VESSEL_NAMES):
        left, right = axes[2 * row], axes[2 * row + 1]
        known = study.pairs[[f"reference_{name}", f"model_{name}"]].dropna()
        assert len(known) == 30 - (name == "LCX")
        np.testing.assert_allclose(points(left), pairs_sorted(known.iloc[:, 1], known.iloc[:, 0]))
        assert left.get_title(loc="left").endswith(name)
        assert f"n = {len(known)}" in left.texts[0].get_text()
        assert line_at(right, "upper limit") == study.parts[name].bland_altman.upper


def test_a_vessel_that_is_not_compared_says_so(cohort) -> None:
    reference, scores = cohort
    study = agreement_study(reference.drop(columns="agatston_LM"), scores, resamples=20)
    figure = drawn(figures.vessels_figure, study)
    assert "not enough data" in figure.axes[0].texts[0].get_text()
    assert "agatston_LM" in figure.axes[0].texts[0].get_text().replace("\n", " ")
    assert len(points(figure.axes[2])) == 30


def test_confusion_shows_counts_with_the_reference_in_rows(study) -> None:
    axes = drawn(figures.confusion_figure, study).axes[0]
    counts = study.categories.confusion
    for text in axes.texts:
        j, i = (int(v) for v in text.get_position())
        assert text.get_text().split("\n")[0] == str(counts[i, j])
        if counts[i, j]:
            assert text.get_text().endswith(f"{100 * counts[i, j] / counts[i].sum():.1f} %")
    assert len(axes.texts) == counts.size
    assert "reference" in axes.get_ylabel()
    assert [t.get_text().split("n = ")[1] for t in axes.get_xticklabels()] == [f"{n})" for n in counts.sum(axis=0)]
    assert not np.array_equal(counts, counts.T)


def test_scan_rescan_has_the_numbers_of_the_study_on_equal_axes(study) -> None:
    found = study.scan_rescan
    left, right = drawn(figures.scan_rescan_figure, study).axes
    for axes, test in ((left, found.reference), (right, found.model)):
        assert line_at(axes, "bias") == pytest.approx(test.mean)
        assert line_at(axes, "upper limit") == pytest.approx(test.mean + 1.96 * test.sd)
        assert len(points(axes)) == found.n
    assert left.get_ylim() == right.get_ylim()
    assert left.get_xlim() == right.get_xlim()


def test_without_rescans_there_is_no_such_figure(cohort) -> None:
    reference, scores = cohort
    study = agreement_study(reference.drop(columns="scan"), scores, resamples=20)
    assert study.scan_rescan is None
    assert figures.figure_makers(study) == (figures.agreement_figure, figures.vessels_figure, figures.confusion_figure)


# ---- degenerate studies


def frame(scores: list[float], vessels: bool = True) -> pd.DataFrame:
    table = pd.DataFrame({"case_id": [f"c{i}" for i in range(len(scores))], "agatston_total": scores})
    return table.assign(**{f"agatston_{name}": table["agatston_total"] / 4 for name in VESSEL_NAMES}) if vessels else table


DEGENERATE = {
    "one case": ([12.0], [15.0], True),
    "two cases": ([12.0, 80.0], [15.0, 70.0], True),
    "all zero": ([0.0] * 5, [0.0] * 5, True),
    "constant": ([50.0] * 4, [60.0] * 4, True),
    "constant model": ([50.0, 60.0, 450.0], [7.0] * 3, True),
    "perfect": ([0.0, 60.0, 450.0], [0.0, 60.0, 450.0], True),
    "no vessels": ([0.0, 60.0, 450.0], [0.0, 70.0, 350.0], False),
    "huge": ([0.0, 1e7, 3.0], [0.0, 2e7, 1.0], True),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_studies_are_drawn_without_a_warning(name: str) -> None:
    reference, model, vessels = DEGENERATE[name]
    study = agreement_study(frame(reference, vessels), frame(model, vessels), resamples=20)
    text = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for maker in figures.figure_makers(study):
            with study_style():
                figure = maker(study)
                figure.draw_without_rendering()
            text += words(figure)
            figures.figure_words(maker, study)
    assert ("not enough data" in text) == (name not in ("perfect", "huge"))


def test_a_vessel_without_any_number_is_drawn(cohort) -> None:
    reference, scores = cohort
    reference["agatston_RCA"] = np.nan
    study = agreement_study(reference, scores, resamples=20)
    figure = drawn(figures.vessels_figure, study)
    assert study.parts["RCA"].n == 0
    assert figure.axes[6].texts[0].get_text().startswith("not enough data")


# ---- files


def test_files_are_the_same_bytes_each_time_and_the_users_settings_stay(study, tmp_path) -> None:
    matplotlib.rcParams["xtick.color"] = "red"
    try:
        with study_style():
            first = picture(figures.confusion_figure(study), "confusion", "t", "c")
        assert matplotlib.rcParams["xtick.color"] == "red"
    finally:
        matplotlib.rcParams["xtick.color"] = matplotlib.rcParamsDefault["xtick.color"]
    with study_style():
        second = picture(figures.confusion_figure(study), "confusion", "t", "c")
    assert (first.png, first.pdf) == (second.png, second.pdf)
    assert first.png.startswith(b"\x89PNG")
    assert first.pdf is not None
    assert first.pdf.startswith(b"%PDF")
    assert b"CreationDate" not in first.pdf
    first.write(tmp_path / "figures")
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["confusion.pdf", "confusion.png"]
    Picture("confusion", "t", "c", b"other").write(tmp_path / "figures")
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["confusion.png"]


# ---- pictures of cases


def pairs(rows: list[tuple[str, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["case_id", "reference_total", "model_total"])


def test_best_median_and_worst() -> None:
    table = pairs([("a", 10, 12), ("b", 300, 300), ("c", 5, 5.01), ("d", 0, 0), ("e", 500, 100), ("f", 100, 140), ("g", 7, 9)])
    chosen = {role: c.case_id for c in choose_cases(table) for role in c.roles}
    # errors d 0, b 0, c 0.01, a 2, g 2, f 40, e 400: b has most calcium of those that are alike; the 4th of 7 is a
    assert chosen == {"best": "b", "median": "a", "worst": "e"}
    assert {r: c.case_id for c in choose_cases(table.sample(frac=1, random_state=3)) for r in c.roles} == chosen


def test_the_best_case_shows_calcium_if_any_does() -> None:
    table = pairs([("none", 0, 0), ("false", 0, 0.02), ("close", 40, 41), ("far", 100, 50)])
    assert {role: c.case_id for c in choose_cases(table) for role in c.roles}["best"] == "close"


def test_ties_go_to_the_first_id_and_cases_are_shown_once() -> None:
    tied = choose_cases(pairs([("z", 50, 40), ("y", 50, 40), ("x", 50, 40)]))
    assert [(c.case_id, c.roles) for c in tied] == [("x", ("best", "worst")), ("y", ("median",))]
    assert [(c.case_id, c.roles) for c in choose_cases(pairs([("only", 3, 9)]))] == [("only", ("best", "median", "worst"))]
    assert {c.case_id for c in choose_cases(pairs([("b", 0, 0), ("a", 0, 0)]))} == {"a"}
    assert choose_cases(pairs([])) == ()


def made_maps(with_reference: bool = True) -> Maps:
    """Ten slices; LAD in 2 and 3 of both, RCA in 7 of the model only, LM in 5 of both."""
    model = np.zeros((10, 60, 60), np.uint8)
    model[2:4, 20:24, 20:24], model[5, 22:24, 30:32] = 2, 1
    reference = model.copy()
    model[7, 40:43, 40:43] = 4
    hu = np.random.default_rng(0).normal(20, 60, model.shape).astype(np.int16)
    return Maps(hu, model, reference if with_reference else None, (3.0, 1.0, 1.0))


def test_slices_with_differences_and_every_vessel_are_shown() -> None:
    assert pick_slices(made_maps(), 3) == [7, 5, 2]
    assert pick_slices(made_maps(), 1) == [7]
    assert pick_slices(made_maps(False), 4) == [7, 5, 3, 2]
    empty = Maps(made_maps().hu, np.zeros((10, 60, 60), np.uint8), None, (3.0, 1.0, 1.0))
    assert len(pick_slices(empty)) == len(set(pick_slices(empty))) >= 2


def test_all_calcium_of_the_shown_slices_is_in_the_field() -> None:
    maps = made_maps()
    wide = Maps(np.tile(maps.hu, (1, 5, 5)), np.tile(maps.model, (1, 5, 5)), None, maps.spacing_mm)
    one = np.zeros_like(wide.model)
    one[:, :60, :60] = maps.model
    rows, columns = pick_field(Maps(wide.hu, one, None, maps.spacing_mm), [7, 2])
    assert rows.start == 0
    assert rows.stop < 120
    assert columns.stop < 120
    rows, columns = pick_field(wide, [7, 2])
    inside = np.zeros(wide.model.shape[1:], bool)
    inside[rows, columns] = True
    assert inside[(wide.model[[7, 2]] > 0).any(axis=0)].all()


def test_picture_shows_ct_reference_and_model() -> None:
    with study_style():
        figure = overlay_figure(made_maps(), "Worst case: $x^2$")
    rows = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert rows == ["CT", "Reference", "Model"]
    n = len(figure.axes) // 3
    names = [[t.get_text() for axes in figure.axes[k * n : (k + 1) * n] for t in axes.texts] for k in range(3)]
    assert names[1] == ["LM", "LAD", "LAD"]
    assert names[2] == ["RCA", "LM", "LAD", "LAD"]
    coloured = [sum(len(axes.images) for axes in figure.axes[k * n : (k + 1) * n]) for k in range(3)]
    assert coloured == [n, 2 * n, 2 * n]
    overlay = np.asarray(figure.axes[2 * n].images[1].get_array())
    assert (overlay[..., 3] > 0).sum() == 9
    with study_style():
        assert [a.get_ylabel() for a in overlay_figure(made_maps(False), "h").axes if a.get_ylabel()] == ["CT", "Model"]


@pytest.mark.parametrize("column", [3, 30, 55])
def test_a_name_never_covers_its_calcium(column: int) -> None:
    """At the right edge of the panel it stands to the left."""
    maps = made_maps(False)
    maps.model[:] = 0
    maps.model[5, 30:32, column : column + 2] = 3
    with study_style():
        figure = overlay_figure(maps, "h")
        figure.canvas.draw()
    axes = next(axes for axes in figure.axes if "LCX" in {t.get_text() for t in axes.texts})
    box = next(t for t in axes.texts if t.get_text() == "LCX").get_window_extent().transformed(axes.transData.inverted())
    coloured = np.asarray(axes.images[1].get_array())[..., 3] > 0
    y, x = (np.flatnonzero(coloured.any(axis=k)) for k in (1, 0))  # spacing is 1 mm
    assert len(x) == 2
    assert box.x0 > x[-1] + 1 or box.x1 < x[0] or max(box.y0, box.y1) < y[0] or min(box.y0, box.y1) > y[-1] + 1
    assert 0 <= box.x0 < box.x1 <= axes.get_xlim()[1]


def test_names_of_neighbours_do_not_cover_each_other() -> None:
    maps = made_maps(False)
    maps.model[5, 19:21, 32:34] = 2  # half a line higher than the LM beside it
    with study_style():
        figure = overlay_figure(maps, "h")
    places = [t.get_position() for axes in figure.axes for t in axes.texts if {t.get_text()} <= {"LM", "LAD"}]
    axes = next(axes for axes in figure.axes if {"LM", "LAD"} == {t.get_text() for t in axes.texts})
    (x0, y0), (x1, y1) = (t.get_position() for t in axes.texts)
    height, width = axes.get_ylim()[0], axes.get_xlim()[1]
    assert len(places) == 4
    assert abs(y0 - y1) > 0.06 * height or abs(x0 - x1) > 0.15 * width


def save(path: Path, volume: np.ndarray) -> None:
    """[z, y, x] with z to the head, y to the back, x to the left."""
    nib.save(nib.Nifti1Image(volume.T, np.diag([-1.0, -1.0, 3.0, 1.0])), path)


def case_folder(folder: Path, maps: Maps, scan: Path) -> Path:
    folder.mkdir(parents=True)
    hu = maps.hu.copy()
    hu[:, :5] = -900
    save(scan, hu)
    save(folder / "labels.nii.gz", maps.model)
    (folder / "scores.json").write_text(json.dumps({"path": scan.name}))
    return folder


def test_maps_are_read_onto_the_scan(tmp_path) -> None:
    made = made_maps()
    folder = case_folder(tmp_path / "out" / "c0", made, tmp_path / "scan.nii.gz")  # the path is relative to a folder above
    save(tmp_path / "ref.nii.gz", made.reference)
    maps, without = read_maps(folder, tmp_path / "ref.nii.gz")
    assert without == ""
    np.testing.assert_array_equal(maps.model, made.model)
    np.testing.assert_array_equal(maps.reference, made.reference)
    np.testing.assert_array_equal(maps.hu[:, 5:], made.hu[:, 5:])
    save(tmp_path / "bad.nii.gz", made.reference[1:])
    maps, without = read_maps(folder, tmp_path / "bad.nii.gz")
    assert maps.reference is None
    assert "grid" in without


def test_pictures_of_cases_and_what_takes_their_place(tmp_path) -> None:
    results = tmp_path / "out"
    case_folder(results / "c2", made_maps(), tmp_path / "scan.nii.gz")
    (results / "c0").mkdir()
    (results / "c0" / "overlay.png").write_bytes(b"existing picture")
    table = frame([10.0, 50.0, 450.0])
    study = agreement_study(table, frame([10.0, 70.0, 350.0]), results=results, resamples=20)
    found, notes = case_pictures(study)
    assert [(p.name, p.pdf is None) for p in found] == [("case_best", True), ("case_worst", False)]
    assert found[0].png == b"existing picture"
    assert any("no picture of case c1" in note for note in notes)
    assert any("case c0 is that of its results" in note for note in notes)
    assert "reference − model 100.0" in found[1].caption
    assert "reference 450.0 (category >400), model 350.0 (101-400)" in found[1].caption
    alone, why = case_pictures(agreement_study(table, frame([10.0, 70.0, 350.0]), resamples=20))
    assert alone == ()
    assert "no case folders" in why[0]


def test_label_maps_of_a_reference_table(tmp_path) -> None:
    table = pd.DataFrame({"case_id": [" a ", "b", "c"], "labels": ["maps/a.nii.gz", None, " "]})
    assert label_paths(table, tmp_path) == {"a": tmp_path / "maps" / "a.nii.gz"}
    assert label_paths(table.drop(columns="labels"), tmp_path) == {}
