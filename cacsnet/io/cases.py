"""From one ``input`` to a list of cases: a file, a series folder, a folder tree or a CSV manifest."""

from __future__ import annotations

import csv
import difflib
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from math import isclose, isfinite
from pathlib import Path
from typing import Any

from cacsnet.errors import ConfigError, ReadError
from cacsnet.io.acquisition import patient_hash
from cacsnet.io.dicom_file import DICOM_SUFFIXES, is_dicom_file, read_header, text
from cacsnet.io.volumes import volume_suffix
from cacsnet.scan import Acquisition, Scan

CASE_COLUMNS = ("case_id", "path", "patient_id", "scan", "series_uid")
# a manifest names a series to choose it, and can't know UIDs of slices or hashes
OVERRIDE_TYPES = {f.name: str(f.type).split(" |")[0] for f in fields(Acquisition)}
for _name in ("series_uid", "patient_id_hash", "sop_instance_uids"):
    del OVERRIDE_TYPES[_name]
TRUE_FALSE = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Case:
    """One scan to be read.

    Attributes:
        case_id: unique, usable as a folder name.
        path: what :func:`cacsnet.io.read_scan` takes.
        patient_id: the manifest's, else the salted hash of the first DICOM header's PatientID, else None.
        scan: the manifest's name of the scan within the patient (such as a repeat), or None.
        overrides: acquisition facts of the manifest, by field name of :class:`~cacsnet.scan.Acquisition`.
        series_uid: SeriesInstanceUID to choose, or None.
    """

    case_id: str
    path: Path
    patient_id: str | None = None
    scan: str | None = None
    overrides: dict[str, float | str | bool] = field(default_factory=dict)
    series_uid: str | None = None


def find_cases(input_path: str | Path, patient_salt: str = "") -> list[Case]:
    """List the cases of an input, sorted by folder; nothing is decoded, and a bad file is still a case.

    A folder with DICOM-like files (magic, or a DICOM suffix whatever is inside, or an empty file without suffix) is
    one case; each NIfTI, NRRD or MetaImage file is one. Hidden files, ``DICOMDIR`` and other files are no cases.
    A CSV manifest has the columns ``case_id, path`` and optionally ``patient_id, scan, series_uid`` and any field of
    :class:`~cacsnet.scan.Acquisition` (``mass_factor`` in mg/mm³ per HU); its relative paths start at the manifest. Other
    columns are ignored.

    Raises:
        ConfigError: no such input, nothing to score in it, a broken manifest, or two cases with one id.
    """
    root = Path(input_path)
    if not root.exists():
        raise ConfigError("no such input", field="input", value=str(input_path))
    if root.is_file() and root.suffix.lower() == ".csv":
        cases = _read_manifest(root, patient_salt)
    elif root.is_file():
        cases = [Case(_stem(root), root, _patient_id([root], patient_salt))]
    else:
        cases = _search(root, patient_salt)
    if not cases:
        raise ConfigError("no scans in this input", path=root, field="input", value=str(input_path))
    repeated = sorted(case_id for case_id, count in Counter(case.case_id for case in cases).items() if count > 1)
    if repeated:
        raise ConfigError("several cases have one case_id", path=root, field="case_id", value=repeated)
    return cases


def apply_overrides(scan: Scan, case: Case) -> Scan:
    """Fill in what the file can't say from the manifest. Where both speak, the file is kept and a note says so."""
    known: dict[str, Any] = {}
    notes = list(scan.notes)
    for name, wanted in case.overrides.items():
        found = getattr(scan.acquisition, name)
        if found is None:
            known[name] = wanted
        elif not _agree(found, wanted):
            notes.append(f"the manifest says {name} = {wanted}, the file {found}: the file was believed")
    return replace(scan, acquisition=replace(scan.acquisition, **known), notes=tuple(notes))


def _agree(found: object, wanted: object) -> bool:
    if isinstance(found, float) and isinstance(wanted, float):
        return isclose(found, wanted, rel_tol=0.01)
    return found == wanted


def _stem(path: Path) -> str:
    """File name without the suffix of its format (``.nii.gz`` is one); other dots stay."""
    suffix = volume_suffix(path)
    if not suffix and path.suffix.lower() in (*DICOM_SUFFIXES, ".txt"):
        suffix = path.suffix
    return path.name[: len(path.name) - len(suffix)] or path.name


def _search(root: Path, patient_salt: str) -> list[Case]:
    cases = []
    # cohorts are often made of links; a link to a folder above itself is left alone
    for folder_name, subfolders, names in os.walk(root, followlinks=True):
        folder = Path(folder_name)
        here = folder.resolve()
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".")
            and not ((folder / name).is_symlink() and here.is_relative_to((folder / name).resolve()))
        )
        files = [folder / name for name in sorted(names) if not name.startswith(".")]
        below = folder.relative_to(root).parts
        slices = [file for file in files if _is_dicom_like(file)]
        if slices:
            case_id = "__".join(below) or root.resolve().name
            cases.append(Case(case_id, folder, _patient_id(slices, patient_salt)))
        cases.extend(Case("__".join((*below, _stem(file))), file) for file in files if volume_suffix(file))
    return cases


def _is_dicom_like(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in DICOM_SUFFIXES:
        return True
    if volume_suffix(path) or suffix in (".raw", ".zraw") or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    return (suffix == "" and path.stat().st_size == 0) or is_dicom_file(path)


def _patient_id(slices: Sequence[Path], salt: str) -> str | None:
    for path in slices[:3]:  # the first may be a stray text file
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values of real headers
            try:
                found = read_header(path)
            except ReadError:
                continue
            if found is not None:
                return patient_hash(text(found.header, "PatientID"), salt)
    return None


def _read_manifest(manifest: Path, patient_salt: str) -> list[Case]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as e:
        raise ConfigError(f"the manifest can't be read ({e})", path=manifest) from e
    _check_columns(columns, manifest)
    return [_manifest_case(manifest, line, row, patient_salt) for line, row in rows]


def _check_columns(columns: list[str], manifest: Path) -> None:
    for needed in ("case_id", "path"):
        if needed not in columns:
            raise ConfigError("the manifest lacks a column", path=manifest, field="column", value=needed)
    known = [*CASE_COLUMNS, *OVERRIDE_TYPES]
    for name, count in Counter(columns).items():
        if name and count > 1:
            raise ConfigError("the manifest has a column twice", path=manifest, field="column", value=name)
        # "kVp" or "heart_rate" silently ignored would change scores
        meant = difflib.get_close_matches(name.lower().replace(" ", "_"), known, n=1, cutoff=0.8)
        if name not in known and meant:
            raise ConfigError(f"unknown column, is it {meant[0]}?", path=manifest, field="column", value=name)


def _manifest_case(manifest: Path, line: int, row: dict[str, str | None], patient_salt: str) -> Case:
    if None in row:
        raise ConfigError(f"line {line} has more values than the header", path=manifest, field="line", value=line)
    filled = {name: cell.strip() for name, cell in row.items() if cell and cell.strip()}
    for needed in ("case_id", "path"):
        if needed not in filled:
            raise ConfigError(f"line {line} has no {needed}", path=manifest, field=needed, value=None)
    case_id = filled["case_id"]
    # it becomes a folder below the output
    if case_id in (".", "..") or any(character in case_id for character in '/\\:*?"<>|\0'):
        raise ConfigError(f"line {line}: a case_id must be usable as a name", path=manifest, field="case_id", value=case_id)
    path = manifest.parent / filled["path"]
    overrides = {name: _parse(filled[name], name, line, manifest) for name in OVERRIDE_TYPES if name in filled}
    patient_id = filled.get("patient_id")
    if patient_id is None:
        patient_id = _patient_id(_first_slices(path), patient_salt)
    return Case(case_id, path, patient_id, filled.get("scan"), overrides, filled.get("series_uid"))


def _first_slices(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in sorted(path.iterdir()) if not file.name.startswith(".") and _is_dicom_like(file)]
    return [path] if path.is_file() and not volume_suffix(path) else []


def _parse(cell: str, name: str, line: int, manifest: Path) -> float | str | bool:
    kind = OVERRIDE_TYPES[name]
    if kind == "bool":
        if cell.lower() in TRUE_FALSE:
            return TRUE_FALSE[cell.lower()]
        raise ConfigError(f"line {line}: must be true or false", path=manifest, field=name, value=cell)
    if kind == "float":
        try:
            number = float(cell)
        except ValueError:
            number = float("nan")
        if not (isfinite(number) and number > 0):
            raise ConfigError(f"line {line}: must be a positive number", path=manifest, field=name, value=cell)
        return number
    return cell
