"""Rows of a long measurement, one JSON line each: an interrupted run loses nothing and goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from cacsnet.workers import worker_pool

Row = dict[str, Any]


def stored(path: Path, key: str) -> dict[Any, Row]:
    """Rows of a file by their ``key``; a last line cut off by an interruption is left out."""
    out = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        out[row[key]] = row
    return out


def collected(
    path: Path,
    key: str,
    jobs: Mapping[Any, tuple[Any, ...]],
    make: Callable[..., Row],
    workers: int,
    title: str,
    console: Console,
) -> list[Row]:  # fmt: skip
    """A row for each of ``jobs`` (by the value of ``key``), in their order: ``make(*job)`` for what the file lacks, added to it
    line by line."""
    known = stored(path, key)
    todo = [job for name, job in jobs.items() if name not in known]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_bytes() if path.exists() else b""
    with path.open("a", encoding="utf-8") as file:
        if text and not text.endswith(b"\n"):
            file.write("\n")
        for row in track(_made(todo, make, workers), title, len(todo), console=console):
            file.write(json.dumps(row) + "\n")
            file.flush()
            known[row[key]] = row
    return [known[name] for name in jobs]


def _made(jobs: list[tuple[Any, ...]], make: Callable[..., Row], workers: int) -> Iterator[Row]:
    if workers <= 1:
        for job in jobs:
            yield make(*job)
        return
    with worker_pool(workers) as pool:
        for done in as_completed([pool.submit(make, *job) for job in jobs]):
            yield done.result()
