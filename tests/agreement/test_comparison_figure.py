from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb

from cacsnet.agreement import comparison_figure as figures
from cacsnet.agreement.compare import COMPARISON_FILES, Comparison, compare
from cacsnet.agreement.figure_style import study_style
from cacsnet.agreement.report import report_html
from cacsnet.agreement.study import agreement_study
from cacsnet.agreement.write import write_study

REFERENCE = [150.0, 50, 0, 50, 500, 50]
FIRST = [150.0, 150, 0, 50, 480, 0]
SECOND = [160.0, 50, 0, 150, 500, 150]
VERDICTS = ["", "better", "", "worse", "", "neither"]
RISING = [2, 1, 3, 5, 0, 4]  # by reference, then by id


def tables() -> list[pd.DataFrame]:
    return [pd.DataFrame({"case_id": list("abcdef"), "agatston_total": v}) for v in (REFERENCE, FIRST, SECOND)]


@pytest.fixture
def found() -> Comparison:
    return compare(*tables(), names=("old$x$", "new_1"), resamples=20)


def drawn(found: Comparison):
    with study_style():
        figure = figures.comparison_figure(found)
        figure.canvas.draw()
        return figure


def xy(axes, label: str) -> np.ndarray:
    line = next(line for line in axes.lines if line.get_label() == label)
    return np.column_stack([line.get_xdata(), line.get_ydata()])


def marks(axes, label: str) -> np.ndarray:
    found = [c.get_offsets() for c in axes.collections if c.get_label() == label]
    return np.concatenate([np.asarray(offsets) for offsets in found]) if found else np.empty((0, 2))


def test_every_scan_stands_in_the_order_of_its_reference_with_both_differences(found) -> None:
    left, _ = drawn(found).axes
    x = np.arange(1, 7)
    reference, first, second = (np.array(v)[RISING] for v in (REFERENCE, FIRST, SECOND))
    np.testing.assert_allclose(xy(left, "first"), np.column_stack([x, reference - first]))
    np.testing.assert_allclose(xy(left, "second"), np.column_stack([x, reference - second]))
    joined = np.concatenate([c.get_segments() for c in left.collections if isinstance(c, LineCollection)])
    joined = joined[np.argsort(joined[:, 0, 0])]
    np.testing.assert_allclose(joined[:, :, 1], np.column_stack([reference - first, reference - second]))
    for which, values in (("first", FIRST), ("second", SECOND)):
        bias = np.mean(np.array(REFERENCE) - values)
        np.testing.assert_allclose(xy(left, f"bias of the {which}")[:, 1], bias)


def test_scans_that_change_category_are_marked_in_both_panels(found) -> None:
    left, right = drawn(found).axes
    reference, first, second = (np.array(v) for v in (REFERENCE, FIRST, SECOND))
    for verdict in ("better", "worse", "neither"):
        case = VERDICTS.index(verdict)
        np.testing.assert_allclose(marks(left, verdict)[:, 0], [1 + RISING.index(case)])
        np.testing.assert_allclose(
            marks(right, verdict), [[abs(reference - first)[case], abs(reference - second)[case]]]
        )  # fmt: skip
    same = [i for i, verdict in enumerate(VERDICTS) if not verdict]
    np.testing.assert_allclose(
        sorted(map(tuple, marks(right, "same category"))),
        sorted(zip(abs(reference - first)[same], abs(reference - second)[same], strict=True)),
    )
    thick, thin = ([c for c in left.collections if isinstance(c, LineCollection) and wide(c)] for wide in (is_thick, is_thin))
    assert sorted(s[0, 0] for c in thick for s in c.get_segments()) == sorted(1 + RISING.index(i) for i in (1, 3, 5))
    assert sum(len(c.get_segments()) for c in thin) == 3


def is_thick(lines: LineCollection) -> bool:
    return lines.get_linewidth()[0] > 1


def is_thin(lines: LineCollection) -> bool:
    return not is_thick(lines)


def test_nothing_hangs_on_colour_alone(found) -> None:
    def grey(colour: object) -> float:
        return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))  # type: ignore[arg-type]

    styles = list(figures.VERDICTS.values())
    assert len({marker for marker, _ in styles}) == len({round(grey(colour), 1) for _, colour in styles}) == 3
    assert figures._FIRST["marker"] != figures._SECOND["marker"]
    assert abs(grey(figures._FIRST["markerfacecolor"]) - grey(figures._SECOND["markerfacecolor"])) > 0.4
    left, _ = drawn(found).axes
    one, two = (next(line for line in left.lines if line.get_label() == f"bias of the {w}") for w in ("first", "second"))
    assert (one.get_linestyle(), two.get_linestyle()) == ("-", "--")


def test_units_n_and_categories_stand_beside(found) -> None:
    figure = drawn(found)
    left, right = figure.axes
    for label in (left.get_xlabel(), left.get_ylabel(), right.get_xlabel(), right.get_ylabel()):
        assert "Agatston units" in label
    assert [t.get_text() for t in left.get_xticklabels()] == [
        "0\n(n = 1)",
        "1-100\n(n = 3)",
        "101-400\n(n = 1)",
        ">400\n(n = 1)",
    ]
    np.testing.assert_allclose(left.get_xticks(), [1, 3, 5, 6])
    assert "n = 6" in [text.get_text() for text in left.texts]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:2] == ["first: old$x$", "second: new_1"]
    assert not any(text.get_parse_math() for text in figure.legends[0].get_texts())


def test_the_caption_has_the_numbers_of_the_tables(found) -> None:
    caption = figures.comparison_words(found)
    error = np.abs(np.array(REFERENCE) - FIRST).mean(), np.abs(np.array(REFERENCE) - SECOND).mean()
    assert f"Mean {error[0]:.1f} and {error[1]:.1f} Agatston units" in caption
    bias = next(d for d in found.differences if (d.part, d.measure) == ("total", "bias"))
    assert f"Bias {bias.first:.1f} and {bias.second:.1f}".replace("-", "−") in caption
    assert "the first: 3, by the reference 1 nearer to its category, 1 farther from its category, 1 neither" in caption
    assert "6 scans by old$x$ (first) and new_1 (second)" in caption


@pytest.mark.parametrize("values", [[0.0], [0.0] * 4, [12.5, 12.5, 12.5], [1e7, 0.0, 3.0]])
def test_degenerate_comparisons_are_drawn_without_a_warning(values: list[float]) -> None:
    one = pd.DataFrame({"case_id": [f"c{i}" for i in range(len(values))], "agatston_total": values})
    picture = figures.comparison_picture(compare(one, one, one.assign(agatston_total=one["agatston_total"] * 1.5), resamples=5))
    assert picture.png.startswith(b"\x89PNG")
    assert "nan" not in picture.caption


def test_both_models_have_a_section_in_the_report(cohort, tmp_path: Path) -> None:
    reference, scores = cohort
    other = scores.assign(agatston_total=scores["agatston_total"] * 1.5)
    found = compare(reference, scores, other, ("old", "new"), resamples=10)
    study = agreement_study(reference, scores, resamples=10)
    write_study(study, tmp_path, None, found)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    picture = (tmp_path / "figures" / "comparison.png").read_bytes()
    assert base64.b64encode(picture).decode() in text
    assert "<h2>Two models</h2>" in text
    assert 'id="table-comparison"' in text
    assert 'id="table-changed_cases"' in text
    assert "comparison of old (first: the model of this study) and new (second)" in text
    assert {p.name for p in tmp_path.iterdir()} >= set(COMPARISON_FILES)
    table = pd.read_csv(tmp_path / "comparison_pairs.csv", keep_default_na=False)
    assert len(table) == 30
    assert (table["verdict"] != "").sum() == len(pd.read_csv(tmp_path / "changed_cases.csv")) > 0
    assert len(json.loads((tmp_path / "comparison.json").read_text())["changed"]) == (table["verdict"] != "").sum()
    assert "Two models" not in report_html(study, ())


def test_an_earlier_comparison_is_removed(cohort, tmp_path: Path, monkeypatch) -> None:
    for name in COMPARISON_FILES:
        (tmp_path / name).write_text("of an earlier study")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "comparison.png").write_text("of an earlier study")
    monkeypatch.setattr("cacsnet.agreement.report.study_figures", lambda study: ())
    write_study(agreement_study(*cohort, resamples=10), tmp_path)
    assert not {p.name for p in tmp_path.rglob("*")} & {*COMPARISON_FILES, "comparison.png"}
