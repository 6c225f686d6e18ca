"""``python -m cacsnet.scanner``: wrong keys and values are named."""

import pytest

from cacsnet.errors import ConfigError
from cacsnet.scanner.__main__ import main


@pytest.mark.parametrize(("argument", "named"), [("fwmh=1.1", "fwmh"), ("fwhm=wide", "wide"), ("regions", "regions")])
def test_a_wrong_key_or_value_is_refused(argument, named):
    with pytest.raises(ConfigError, match=named):
        main([argument])
