"""key=value arguments."""

import pytest

from cacsnet.errors import ConfigError
from cacsnet.keys import read_keys

DEFAULTS = {"scans": "12", "docs": "docs"}


def test_given_values_replace_the_defaults_and_leave_them_as_they_were():
    assert read_keys([], DEFAULTS) == DEFAULTS
    assert read_keys(["docs=a=b", "scans=3"], DEFAULTS) == {"scans": "3", "docs": "a=b"}
    assert DEFAULTS == {"scans": "12", "docs": "docs"}


@pytest.mark.parametrize("argument", ["scan=3", "scans3", "=3"])
def test_an_unknown_key_is_an_error_that_names_the_known_ones(argument):
    with pytest.raises(ConfigError, match="known are scans, docs") as caught:
        read_keys([argument], DEFAULTS)
    assert caught.value.value == argument
