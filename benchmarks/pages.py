"""What a benchmark measured, put into its page of docs/."""

from __future__ import annotations

from pathlib import Path

from cacsnet.errors import ConfigError


def write_between(path: Path, mark: str, text: str) -> None:
    """Replace what stands between ``<!-- mark: start -->`` and ``<!-- mark: end -->``.

    Raises:
        ConfigError: the page doesn't have both marks once.
    """
    start, end = f"<!-- {mark}: start -->", f"<!-- {mark}: end -->"
    page = path.read_text(encoding="utf-8")
    if page.count(start) != 1 or page.count(end) != 1:
        raise ConfigError(f"{path} must have the marks {start} and {end} once", field="docs", value=str(path.parent))
    before, _, rest = page.partition(start)
    path.write_text(f"{before}{start}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")
