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


def whole_number(keys: Mapping[str, str], name: str, least: int = 0) -> int:
    """The whole number of a key.

    Raises:
        ConfigError: it is none, or below ``least``.
    """
    if not keys[name].isdecimal() or int(keys[name]) < least:
        raise ConfigError(f"must be a whole number of at least {least}", field=name, value=keys[name])
    return int(keys[name])
