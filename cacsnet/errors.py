"""Typed errors. Each names the input, the field and the value, and has a stable short ``code`` for tables.

A reader, the pipeline or the scorer raises one of these for any input it can't turn into a defensible score;
``infer.py`` writes them to ``failures.csv`` and goes on with the next case.
"""

from __future__ import annotations

from pathlib import Path


class CacsError(Exception):
    """Base of all errors about an input.

    Args:
        message: what is wrong and what to do, in one sentence.
        path: the file or folder it was found in, if any.
        field: the name of the offending field (a DICOM keyword, an argument), if any.
        value: the offending value, if any.
    """

    code = "error"

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        field: str | None = None,
        value: object = None,
    ) -> None:
        self.message = message
        self.path = None if path is None else str(path)
        self.field = field
        self.value = value
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        what = f" [{self.field}={self.value!r}]" if self.field else ""
        return f"{where}{self.message}{what}"


class ConfigError(CacsError):
    """A bad command: unknown key, unknown profile, missing checkpoint."""

    code = "bad_command"


class ArgumentError(CacsError, ValueError):
    """An argument of a library function is out of its domain (shape, spacing, dtype, NaN, label)."""

    code = "bad_argument"


class ReadError(CacsError):
    """Base of everything a reader refuses."""

    code = "unreadable"


class MissingPathError(ReadError):
    code = "missing_path"


class EmptyFolderError(ReadError):
    code = "empty_folder"


class NotAnImageError(ReadError):
    """Not a medical image in a format we read (a text file, an empty file, an unknown format)."""

    code = "not_an_image"


class ModalityError(ReadError):
    """A DICOM object that is not a CT slice (MR, secondary capture, localizer, derived map)."""

    code = "not_ct"


class TruncatedFileError(ReadError):
    """The pixel data is missing or shorter than the header says."""

    code = "truncated"


class DecoderError(ReadError):
    """The pixel data can't be decoded: names the transfer syntax and what is missing."""

    code = "no_decoder"


class NotAVolumeError(ReadError):
    """One slice, several images at one place, mixed geometry, 4-D data."""

    code = "not_a_volume"


class SliceGapError(NotAVolumeError):
    """Slice positions are not equally spaced: a slice is missing."""

    code = "slice_gap"


class TiltedGantryError(NotAVolumeError):
    code = "tilted_gantry"


class SeveralSeriesError(NotAVolumeError):
    """More than one series and no choice made; the message lists them."""

    code = "several_series"


class NotHounsfieldError(ReadError):
    """Values are no HU: a mask, a map, a picture (flag ``not_hu``)."""

    code = "not_hu"


class NoHeartError(CacsError):
    code = "no_heart"


class EnhancedBloodError(CacsError):
    """Blood-pool median ≥ 100 HU: contrast-enhanced; a calcium score would be meaningless."""

    code = "enhanced_blood"


class TubeVoltageError(CacsError):
    """kVp is missing, or the scoring profile has no thresholds for it."""

    code = "kvp_not_scorable"


class CheckpointError(CacsError):
    code = "bad_checkpoint"
