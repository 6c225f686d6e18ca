"""A study as files: ``agreement.json`` with every number, ``pairs.csv``, and each table as CSV and LaTeX,
the figures and the report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cacsnet.agreement.document import plain, study_document
from cacsnet.agreement.latex import latex_table
from cacsnet.agreement.study import Study
from cacsnet.agreement.tables import TABLE_NAMES, PaperTable, study_tables

if TYPE_CHECKING:
    from cacsnet.agreement.compare import Comparison


def write_tables(study: Study, output_dir: str | Path) -> Path:
    """Write ``agreement.json``, ``pairs.csv``, ``left_out.csv`` and ``<table>.csv`` / ``.tex``; returns the JSON's path.

    Each file appears whole, ``agreement.json`` last. Tables of an earlier study that this one doesn't have are removed.

    Raises:
        OSError: the folder can't be written.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "agreement.json").unlink(missing_ok=True)
    tables = study_tables(study)
    for name in set(TABLE_NAMES) - {table.name for table in tables}:
        for suffix in (".csv", ".tex"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    write_paper_tables(tables, folder)
    write_frame(folder / "pairs.csv", study.pairs)
    write_frame(folder / "left_out.csv", study.left_out)
    path = folder / "agreement.json"
    write_json(path, study_document(study))
    return path


def write_study(
    study: Study,
    output_dir: str | Path,
    label_paths: Mapping[str, Path] | None = None,
    comparison: Comparison | None = None,
) -> Path:
    """Everything: :func:`write_tables`, the files of a comparison, then figures and ``report.html``; returns the path of
    ``agreement.json``.

    Args:
        study: the study.
        output_dir: its folder.
        label_paths: reference label map of each case id, for the pictures of cases.
        comparison: of the study's model with a second one. Without, the files of an earlier one are removed.

    Raises:
        OSError: the folder can't be written.
    """
    from cacsnet.agreement.compare import COMPARISON_FILES, write_comparison
    from cacsnet.agreement.report import write_report  # only who writes a report needs matplotlib and jinja2

    for name in ("report.html", *COMPARISON_FILES):
        (Path(output_dir) / name).unlink(missing_ok=True)
    path = write_tables(study, output_dir)
    if comparison is not None:
        write_comparison(comparison, output_dir)
    write_report(study, output_dir, label_paths, comparison)
    return path


def write_paper_tables(tables: Sequence[PaperTable], folder: Path) -> None:
    """Each table as ``<name>.csv`` (numbers) and ``<name>.tex`` (text)."""
    for table in tables:
        write_frame(folder / f"{table.name}.csv", table.data)
        write_text(folder / f"{table.name}.tex", latex_table(table.name, table.caption, table.columns, table.rows, table.notes))


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """A CSV; nan and None are empty cells."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Strict JSON: nan is null."""
    write_text(path, json.dumps(plain(document), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
