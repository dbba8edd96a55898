"""Who shows the progress of long work: whoever asked for it, or nobody."""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Goes through items while somebody shows how far it is."""

    def __call__(self, items: Sequence[T], description: str) -> Iterable[T]: ...


def silently(items: Sequence[T], description: str) -> Iterable[T]:
    """Nobody shows the progress."""
    return items
