"""Keep freed memory in the process: large tensors come and go with every patch, and fresh pages cost more than filling them."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Of glibc's malloc.h."""


@lru_cache(maxsize=1)
def keep_memory() -> bool:
    """Tell glibc's allocator to reuse large blocks instead of giving them back; True if it does. For processes of
    our own: workers, training."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    wanted = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26))
    taken = [mallopt(option, value) for option, value in wanted]
    return all(taken)
