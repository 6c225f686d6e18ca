from pathlib import Path

import pytest

from cacsnet import errors
from cacsnet.errors import ArgumentError, CacsError, NotAVolumeError, ReadError, SliceGapError

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, CacsError)]


def test_codes_are_unique_among_errors_that_can_be_told_apart():
    codes = [error.code for error in ALL]
    assert len(ALL) > 15
    assert len(set(codes)) == len(codes)
    assert all(code == code.lower() and " " not in code for code in codes)


def test_the_message_names_input_field_and_value():
    error = SliceGapError("slice missing", path=Path("case/a"), field="ImagePositionPatient", value=3.5)
    assert str(error) == "case/a: slice missing [ImagePositionPatient=3.5]"
    assert (error.message, error.path, error.field, error.value) == (
        "slice missing",
        "case/a",
        "ImagePositionPatient",
        3.5,
    )


def test_path_and_field_may_be_left_out():
    assert str(CacsError("no")) == "no"
    assert str(CacsError("no", field="kvp")) == "no [kvp=None]"


def test_families():
    assert issubclass(SliceGapError, NotAVolumeError)
    assert issubclass(NotAVolumeError, ReadError)
    with pytest.raises(ValueError, match="shape"):
        raise ArgumentError("wrong shape")
