"""Memory of this process, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path


def status_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes: ``VmRSS`` (resident now), ``VmHWM`` (its peak)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
