"""Real scans for training: a CSV manifest of images and label maps, and a YAML that says what their values mean.

What a dataset knows differs: only calcium lesions, only heart structures, or everything. ``known`` says it, and what isn't
known stays unknown: a scan without an annotation file is no scan without calcium.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from cacsnet.errors import ArgumentError, ConfigError, TubeVoltageError
from cacsnet.io import Case, apply_overrides, find_cases, read_label_map, read_scan
from cacsnet.labels import IGNORE, STRUCTURES, VESSELS
from cacsnet.scan import Geometry
from cacsnet.scoring import load_profile
from cacsnet.scoring.calibration import calibration_of

OTHER_CALCIUM = len(VESSELS)
"""In calcium maps: calcium that is not coronary. 1 to 4 are the vessels, 0 unlabelled, IGNORE can't be told."""

FILES = {"calcium": "labels_path", "structures": "structures_path", "course": "course_path"}
"""What may be known of a scan, and the manifest's column with its label map."""

VALUES: dict[str, dict[str, int]] = {
    "calcium": {v.name: v.index for v in VESSELS} | {"other": OTHER_CALCIUM, "ignore": IGNORE},
    "structures": {s.name: s.index for s in STRUCTURES} | {"ignore": IGNORE},
    "course": {v.name: v.index for v in VESSELS} | {"ignore": IGNORE},
}
"""Names that a label map's values may be given, and our value of each."""

TRUE_FALSE = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class DatasetSettings:
    """A dataset: ``conf/data/*.yaml``.

    Attributes:
        root: folder of the manifest.
        manifest: CSV below it, or an absolute path: ``case_id, path``, the label columns of :data:`FILES`, optionally ``known``
            (of this scan, separated by blanks), ``complete``, and acquisition columns such as ``kvp``. Relative paths start at
            the manifest.
        known: what the label maps say, of "calcium", "structures", "course"; or "everything".
        complete: every coronary calcium in the heart is labelled, so that an unlabelled candidate there is none.
        labels: value in a calcium map -> vessel, "background", "other" (calcium that isn't coronary) or "ignore".
        structures: value in a structure map -> structure, "background" or "ignore".
        course: value in a map of the coronary artery area -> vessel, "background" or "ignore".
        border_voxels: unlabelled candidates this many voxels beside labelled calcium are unknown: contours differ by a voxel.
        scoring: profile whose threshold makes a candidate.
        assumed_kvp: for scans whose file and manifest don't say; None refuses them.
    """

    root: str
    manifest: str = "manifest.csv"
    known: tuple[str, ...] = ("calcium",)
    complete: bool = False
    labels: Mapping[int, str] = field(default_factory=lambda: {v.index: v.name for v in VESSELS})
    structures: Mapping[int, str] = field(default_factory=lambda: {s.index: s.name for s in STRUCTURES})
    course: Mapping[int, str] = field(default_factory=lambda: {v.index: v.name for v in VESSELS})
    border_voxels: float = 1.0
    scoring: str = "smartscore"
    assumed_kvp: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", known_from(self.known, "known"))
        for what in FILES:
            # a value that was added on the command line comes as text
            plain = {int(str(v)) if str(v).isdigit() else v: name for v, name in self.map_of(what).items()}
            object.__setattr__(self, _map_name(what), plain)
            for value, name in plain.items():
                if isinstance(value, bool) or not isinstance(value, int):
                    raise ConfigError("a label map's values are whole numbers", field=_map_name(what), value=value)
                if name not in VALUES[what]:
                    known = ", ".join(VALUES[what])
                    raise ConfigError(f"unknown label of value {value}; choose from {known}", field=_map_name(what), value=name)
        if not isinstance(self.complete, bool):
            raise ConfigError("must be true or false", field="complete", value=self.complete)
        if not self.border_voxels >= 0:
            raise ConfigError("must be a number from 0 on", field="border_voxels", value=self.border_voxels)

    def map_of(self, what: str) -> Mapping[int, str]:
        """Value -> name of a kind of label map."""
        out: Mapping[int, str] = getattr(self, _map_name(what))
        return out

    @property
    def path(self) -> Path:
        return Path(self.root) / self.manifest


def _map_name(what: str) -> str:
    return "labels" if what == "calcium" else what


def known_from(value: Any, name: str, path: Path | None = None) -> tuple[str, ...]:
    """``known`` as a tuple, from a list or from words separated by blanks.

    Raises:
        ConfigError: a word that isn't one of them, or none.
    """
    words = value.split() if isinstance(value, str) else [str(v) for v in value]
    if words == ["everything"]:
        return tuple(FILES)
    for word in words:
        if word not in FILES:
            raise ConfigError(f"choose from {', '.join(FILES)}, everything", path=path, field=name, value=word)
    if not words:
        raise ConfigError("a dataset that knows nothing teaches nothing", path=path, field=name, value=value)
    return tuple(w for w in FILES if w in words)


def dataset_from(config: Mapping[str, Any]) -> DatasetSettings:
    """Settings from a plain mapping. Raises ConfigError for an unknown or missing key."""
    known = [f.name for f in fields(DatasetSettings)]
    for key in config:
        if key not in known:
            raise ConfigError(f"unknown key; known are {', '.join(known)}", field="data", value=key)
    if not config.get("root"):
        raise ConfigError("say where the manifest is: data.root=FOLDER", field="data.root", value=config.get("root"))
    return DatasetSettings(**config)


@dataclass(frozen=True)
class LabelledCase:
    """A row of the manifest: the scan, its label maps by :data:`FILES` key (only what is known), and whether all calcium is
    labelled."""

    case: Case
    maps: Mapping[str, Path]
    complete: bool


def read_manifest(settings: DatasetSettings) -> list[LabelledCase]:
    """The cases of a dataset. Nothing is decoded.

    An empty cell in a label column means that this scan's annotation isn't there: unknown, not zero.

    Raises:
        ConfigError: no manifest, a missing column, a missing file, a bad cell, the same case, image or label map twice; the
            error names the manifest, the column and the value.
    """
    manifest = settings.path
    if not manifest.is_file():
        raise ConfigError("no such manifest", path=manifest, field="data.manifest", value=settings.manifest)
    cases = find_cases(manifest)  # checks case_id, path and the acquisition columns
    with manifest.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [(name or "").strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        rows = [{k: (v or "").strip() for k, v in row.items() if k is not None} for row in reader]
    for what in settings.known:
        if FILES[what] not in columns:
            raise ConfigError(
                f"the manifest lacks a column ({what} is known)", path=manifest, field="column", value=FILES[what]
            )
    out = [_labelled(case, row, settings) for case, row in zip(cases, rows, strict=True)]
    used = [("path", c.case.path) for c in out if c.case.series_uid is None]
    used += [(FILES[what], path) for c in out for what, path in c.maps.items()]
    for (column, path), count in Counter((column, path.resolve()) for column, path in used).items():
        if count > 1:
            raise ConfigError("the same file in several rows", path=manifest, field=column, value=str(path))
    return out


def _labelled(case: Case, row: Mapping[str, str], settings: DatasetSettings) -> LabelledCase:
    manifest = settings.path
    if not case.path.exists():
        raise ConfigError(f"case {case.case_id}: no such file", path=manifest, field="path", value=str(case.path))
    known = known_from(row["known"], "known", manifest) if row.get("known") else settings.known
    maps = {}
    for what in known:
        cell = row.get(FILES[what], "")
        if not cell:
            continue
        maps[what] = manifest.parent / cell
        if not maps[what].is_file():
            raise ConfigError(f"case {case.case_id}: no such file", path=manifest, field=FILES[what], value=cell)
    complete = settings.complete
    if row.get("complete"):
        if row["complete"].lower() not in TRUE_FALSE:
            raise ConfigError(
                f"case {case.case_id}: must be true or false", path=manifest, field="complete", value=row["complete"]
            )
        complete = TRUE_FALSE[row["complete"].lower()]
    return LabelledCase(case, maps, complete)


@dataclass(frozen=True)
class LabelledScan:
    """A scan with what is known of it, all arrays [z, y, x] on its own grid.

    Attributes:
        hu: int16, padding as the reader gives it (-2048).
        geometry: its grid.
        kvp: the voltage whose thresholds hold, and ``threshold_hu`` of a candidate at it.
        thickness_mm: slice thickness; the increment where the file doesn't say.
        calcium: uint8: 1-4 vessels, :data:`OTHER_CALCIUM`, IGNORE, 0 unlabelled; None: not known.
        structures, course: uint8 with IGNORE; None: not known.
        complete: an unlabelled candidate in the heart is no coronary calcium.
    """

    case_id: str
    hu: np.ndarray
    geometry: Geometry
    kvp: float
    threshold_hu: float
    thickness_mm: float
    calcium: np.ndarray | None
    structures: np.ndarray | None
    course: np.ndarray | None
    complete: bool


def load_case(labelled: LabelledCase, settings: DatasetSettings) -> LabelledScan:
    """Read an image and its label maps.

    Raises:
        ReadError: the image or a label map can't be read.
        TubeVoltageError: tube voltage unknown, or without thresholds in the scoring profile.
        ArgumentError: a label map on another grid (shape, or affine beyond 0.05 mm), or values outside the dataset's map.
    """
    case = labelled.case
    scan = apply_overrides(read_scan(case.path, case.series_uid), case)
    profile = load_profile(settings.scoring)
    try:
        kvp = calibration_of(scan.acquisition, profile, settings.assumed_kvp).scored_kvp
    except TubeVoltageError as error:
        raise TubeVoltageError(
            f"case {case.case_id}: {error.message} (a manifest column, or data.assumed_kvp)",
            path=case.path, field=error.field, value=error.value,
        ) from error  # fmt: skip
    maps = {
        what: _mapped(read_label_map(path, scan.geometry), settings.map_of(what), what, path)
        for what, path in labelled.maps.items()
    }
    hu = scan.hu if scan.hu.dtype == np.int16 else np.clip(np.rint(scan.hu), -2048, 32767).astype(np.int16)
    return LabelledScan(
        case.case_id, hu, scan.geometry, kvp, profile.threshold_hu(kvp),
        scan.acquisition.slice_thickness_mm or scan.spacing_mm[0],
        maps.get("calcium"), maps.get("structures"), maps.get("course"), labelled.complete and "calcium" in maps,
    )  # fmt: skip


def _mapped(stored: np.ndarray, names: Mapping[int, str], what: str, path: Path) -> np.ndarray:
    low, high = int(stored.min()), int(stored.max())
    values = np.unique(stored) if high - low > 65535 else np.flatnonzero(np.bincount((stored - low).ravel())) + low
    missing = [int(v) for v in values if int(v) not in names]
    if missing:
        raise ArgumentError(
            f"values that the dataset's map of {_map_name(what)} doesn't name", path=path, field="label value", value=missing
        )
    table = np.zeros(high - low + 1, np.uint8)
    table[values - low] = [VALUES[what][names[int(v)]] for v in values]
    return table[stored - low]


__all__ = [
    "FILES", "OTHER_CALCIUM", "DatasetSettings", "LabelledCase", "LabelledScan", "dataset_from", "known_from", "load_case",
    "read_manifest",
]  # fmt: skip
