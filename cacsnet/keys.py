"""``key=value`` arguments of the small commands (``python -m cacsnet.…``, ``benchmarks/``); train.py and infer.py use Hydra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cacsnet.errors import ConfigError


def read_keys(arguments: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The defaults with what the arguments say instead.

    Raises:
        ConfigError: a key that has no default.
    """
    keys = dict(defaults)
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in keys:
            raise ConfigError(f"unknown key; known are {', '.join(keys)}", field="key", value=argument)
        keys[key] = value
    return keys
