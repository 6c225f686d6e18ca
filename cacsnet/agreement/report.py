"""The report of a study: one HTML file with all tables, figures, notes and settings, that needs nothing beside it."""

from __future__ import annotations

import base64
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from cacsnet.agreement.compare import Comparison, comparison_tables
from cacsnet.agreement.comparison_figure import comparison_picture
from cacsnet.agreement.document import RULES
from cacsnet.agreement.figure_style import DPI, UNIT, WIDTH_IN, Picture
from cacsnet.agreement.figures import study_figures
from cacsnet.agreement.overlays import ROLES, case_pictures
from cacsnet.agreement.pairs import NOT_COMPARABLE
from cacsnet.agreement.study import Study
from cacsnet.agreement.tables import PaperTable, interval, marked, number, study_tables
from cacsnet.agreement.write import write_text

DISCLAIMER = "Research use only. Not a medical device."
FIGURE_NAMES = ("agreement", "vessels", "confusion", "scan_rescan", "comparison", *(f"case_{role}" for role in ROLES))
FIGURES_FOLDER = "figures"
SHOWN_LEFT_OUT = 50

# what belongs together; tables and figures that stand nowhere here come last
_SECTIONS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("Total score and vessels", ("agreement", "vessels"), ("scores", "regression", "bland_altman", "icc")),
    ("Risk categories", ("confusion",), ("categories", "kappa", "reclassified")),
    ("Scan and rescan", ("scan_rescan",), ("scan_rescan", "scan_agreement")),
    ("What the deviation depends on", (), ("glm",)),
    ("Lesions", (), ("lesions",)),
    ("Two models", ("comparison",), ("comparison", "changed_cases")),
    ("Cases", tuple(f"case_{role}" for role in ROLES), ()),
)
_PACKAGES = ("cacsnet", "numpy", "scipy", "pandas", "statsmodels", "matplotlib")
_NUMBER = re.compile(r"^[<−–-]?\s*\d|^–$")


@dataclass(frozen=True)
class Section:
    """A part of the report: numbered figures and tables."""

    title: str
    figures: tuple[tuple[int, Picture], ...]
    tables: tuple[tuple[int, PaperTable], ...]


def write_report(
    study: Study,
    output_dir: str | Path,
    label_paths: Mapping[str, Path] | None = None,
    comparison: Comparison | None = None,
) -> Path:
    """Write ``figures/<name>.png`` and ``.pdf``, then ``report.html``; returns the report's path.

    Each file appears whole. Figures and the report of an earlier study are removed first.

    Args:
        study: the study.
        output_dir: its folder.
        label_paths: reference label map of each case id, for the pictures of cases.
        comparison: of the study's model with a second one; adds a section.

    Raises:
        OSError: the folder can't be written.
    """
    folder = Path(output_dir)
    path = folder / "report.html"
    path.unlink(missing_ok=True)
    pictures, notes = study_pictures(study, label_paths)
    if comparison is not None:
        pictures = (*pictures, comparison_picture(comparison))
    for name in FIGURE_NAMES:
        for suffix in ("png", "pdf"):
            (folder / FIGURES_FOLDER / f"{name}.{suffix}").unlink(missing_ok=True)
    for one in pictures:
        one.write(folder / FIGURES_FOLDER)
    write_text(path, report_html(study, pictures, notes, comparison))
    return path


def study_pictures(study: Study, label_paths: Mapping[str, Path] | None = None) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """All figures of a study, and notes about those that are missing."""
    cases, notes = case_pictures(study, label_paths)
    return (*study_figures(study), *cases), notes


def report_html(
    study: Study, pictures: Sequence[Picture], notes: Sequence[str] = (), comparison: Comparison | None = None
) -> str:
    """The report as text: figures are embedded, nothing is loaded, every text of the data is escaped."""
    template = resources.files("cacsnet.agreement").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"embedded": _embedded, "share_of_page": _share_of_page, "numeric_columns": _numeric_columns}
    environment.tests["numeric"] = _is_number
    tables = study_tables(study)
    if comparison is not None:
        tables = (*tables, *comparison_tables(comparison))
        compared = f"comparison of {comparison.names[0]} (first: the model of this study) and {comparison.names[1]} (second)"
        notes = [*notes, *(f"{compared}: {note}" for note in comparison.notes)]
    pictures = [replace(one, caption=marked(one.caption, study.phantom)) for one in pictures]
    missing = {name.replace("_", " "): why for name, why in study.missing.items()}
    return environment.from_string(template).render(
        disclaimer=DISCLAIMER,
        not_comparable=NOT_COMPARABLE if study.phantom else "",
        n=len(study.pairs),
        patients=study.n_patients if study.settings["clusters"] == "patient_id" else None,
        key_numbers=key_numbers(study),
        sections=sections(pictures, tables),
        notes=[*study.notes, *notes],
        missing=missing,
        left_out=study.left_out.head(SHOWN_LEFT_OUT).to_dict("records"),
        n_left_out=len(study.left_out),
        shown_left_out=SHOWN_LEFT_OUT,
        rules=RULES,
        settings=study.settings,
        versions=versions(),
        models=models(study),
    )


def sections(pictures: Sequence[Picture], tables: Sequence[PaperTable]) -> tuple[Section, ...]:
    """Figures and tables in the order of the report, each numbered; sections without either are left out."""
    figures, grids = {one.name: one for one in pictures}, {one.name: one for one in tables}
    placed = {name for _, of_figures, of_tables in _SECTIONS for name in (*of_figures, *of_tables)}
    further = ("Further results", tuple(figures.keys() - placed), tuple(grids.keys() - placed))
    found, n_figures, n_tables = [], 0, 0
    for title, of_figures, of_tables in (*_SECTIONS, (further[0], tuple(sorted(further[1])), tuple(sorted(further[2])))):
        here = [figures[name] for name in of_figures if name in figures]
        grid = [grids[name] for name in of_tables if name in grids]
        if not here and not grid:
            continue
        numbered = tuple(enumerate(here, n_figures + 1)), tuple(enumerate(grid, n_tables + 1))
        n_figures, n_tables = n_figures + len(here), n_tables + len(grid)
        found.append(Section(title, *numbered))
    return tuple(found)


def key_numbers(study: Study) -> tuple[tuple[str, str], ...]:
    """The few numbers that a reader looks for first, each with its interval."""
    part, found = study.parts["total"], study.categories
    limits, correlation, moved, kappa = part.bland_altman, part.icc, found.reclassification, found.kappa_quadratic
    rate = interval((100 * moved.ci[0], 100 * moved.ci[1]))
    numbers = (
        ("Bias (reference − model)", f"{number(limits.bias)} {UNIT} (95 % CI {interval(limits.bias_ci)})"),
        ("Limits of agreement", f"{interval((limits.lower, limits.upper))} {UNIT}"),
        ("ICC(C,1), consistency", f"{number(correlation.consistency, 3)} ({interval(correlation.consistency_ci, 3)})"),
        ("ICC(A,1), absolute agreement", f"{number(correlation.agreement, 3)} ({interval(correlation.agreement_ci, 3)})"),
        ("Kappa of categories, quadratic weights", f"{number(kappa.kappa, 3)} ({interval(kappa.ci, 3)})"),
        ("Reclassified", f"{moved.changed} of {moved.n}: {number(100 * moved.rate)} % ({rate} %)"),
    )
    return tuple((name, value.replace("-", "−")) for name, value in numbers)


def versions() -> dict[str, str]:
    """Versions of what computed the study."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that isn't installed
            found[name] = "unknown"
    return found


def models(study: Study) -> tuple[tuple[dict[str, str], int], ...]:
    """What scored the cases, by the ``scores.json`` of their folders: facts and number of cases, most cases first."""
    counts: dict[tuple[tuple[str, str], ...], int] = {}
    for case_id in study.pairs["case_id"] if study.results is not None else ():
        facts = tuple(_model_facts(study.results / str(case_id) / "scores.json"))  # type: ignore[operator]
        if facts:
            counts[facts] = counts.get(facts, 0) + 1
    return tuple((dict(facts), n) for facts, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _model_facts(path: Path) -> list[tuple[str, str]]:
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        run, rules = document["run"], document["rules"]
        facts = {
            "checkpoint": run["checkpoint"],
            "weights SHA-256": run["weights_sha256"],
            "scoring profile": rules["profile"],
            "cacsnet": run["versions"]["cacsnet"],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [(name, str(value)) for name, value in facts.items()]


def _embedded(one: Picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(one.png).decode('ascii')}"


def _share_of_page(one: Picture) -> int:
    """Width in percent, so that text has one size in all figures. A PNG's width stands in its head."""
    width = int.from_bytes(one.png[16:20], "big") / DPI
    return max(30, min(100, round(100 * width / WIDTH_IN)))


def _numeric_columns(table: PaperTable) -> list[bool]:
    """Whether each column holds numbers only, so that its head stands above them."""
    return [bool(table.rows) and i > 0 and all(_is_number(row[i]) for row in table.rows) for i in range(len(table.columns))]


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.match(cell))
