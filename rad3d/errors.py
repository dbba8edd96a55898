"""What can go wrong, said so that it can be mended: what was expected, what came, what to do."""

from pathlib import Path


class Rad3dError(ValueError):
    """An input rad3d cannot work with.

    Args:
        source: the file, folder or argument at fault.
        expected: what would have been right.
        got: what came instead.
        remedy: what the user can do about it.

    >>> print(Rad3dError("gear.stl", expected="a mesh", got="an empty file", remedy="export it again"))
    gear.stl: expected a mesh, got an empty file. Remedy: export it again.
    """

    def __init__(self, source: str | Path, *, expected: str, got: str, remedy: str) -> None:
        self.source = str(source)
        self.expected = expected
        self.got = got
        self.remedy = remedy
        super().__init__(f"{source}: expected {expected}, got {got}. Remedy: {remedy}.")


class ScanError(Rad3dError):
    """A scan that cannot be read or holds no usable surface."""


class UnitError(Rad3dError):
    """A scan whose size makes sense only in another unit."""


class WeightsError(Rad3dError):
    """Encoder weights that are missing, unreachable or not the expected bytes."""


class MemoryFormatError(Rad3dError):
    """A memory that cannot be read or belongs to another encoder."""


class DatasetError(Rad3dError):
    """A data set whose files are missing or not as its format says."""


class ResultError(Rad3dError):
    """A result that cannot be read or written."""


class SettingsError(Rad3dError):
    """Settings that contradict each other or lie outside their range."""


class DependencyError(Rad3dError):
    """An optional package, or a system library it needs, is not there."""


class RegistrationError(Rad3dError):
    """A scan that could not be brought into the part frame."""
