"""Several things at once, for work that NumPy, SciPy, Embree or Pillow do outside of Python."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """What `function` makes of each item, in their order, as many at once as there are processors.

    >>> each(lambda number: number**2, range(4))
    [0, 1, 4, 9]
    """
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(_processors()) as pool:
        return list(pool.map(function, items))


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
