"""Files that are complete or not there, and what identifies them."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from rad3d.arrays import Colours, Faces, Points
from rad3d.errors import ResultError, ScanError
from rad3d.scan import Texture

PARTIAL, OLDER = ".partial-", ".older-"
"""How the names begin of what is being written, and of what it is about to replace. After a kill between the two the
latter is all there is of the older version: nothing removes it."""


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, what: str, count: int = -1) -> bytes:
    """The content (or its first bytes) of a file that must not be empty; `what` it should have been, as in "a mesh".

    Raises:
        ScanError: missing, unreadable or empty.
    """
    try:
        with path.open("rb") as file:
            data = file.read(count)
    except OSError as error:
        raise ScanError(
            path, expected=what, got=error.strerror or str(error), remedy="check the path and its permissions"
        ) from error
    if not data:
        raise ScanError(path, expected=what, got="an empty file (0 bytes)", remedy="export or copy it again")
    return data


def save_tensors(tensors: Mapping[str, Any], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write arrays or CPU tensors as safetensors.

    Raises:
        OSError: it cannot be written; safetensors' own error is none, and a full disk would pass for a bug.
    """
    path.touch()
    rights = path.stat().st_mode
    try:
        save_file({name: np.asarray(values, order="C") for name, values in tensors.items()}, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    with suppress(OSError):  # not every mount knows rights
        path.chmod(rights)  # safetensors lets nobody else read it


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell what the system says when it cannot be written.

    Raises:
        ResultError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise ResultError(
            path,
            expected="a writable place with enough room",
            got=str(error),
            remedy="free disk space, check permissions or choose another output; nothing was left behind",
        ) from error


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary sibling to write to, renamed to `path` at the end and removed on any exception.

    Raises:
        ResultError: it cannot be written (disk full, no permission).
    """
    path = Path(path)
    partial = _beside(path, PARTIAL)
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, own: Sequence[str] = ()) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `path` at the end and is removed on any exception.

    The content of an older version is replaced, not the folder, which may be mounted, shared or somebody's current one;
    a folder that holds anything else is somebody's data.

    Args:
        path: where it is to be.
        own: patterns of names that an older version may hold and a new one lack.

    Raises:
        ResultError: it cannot be written (disk full, no permission), or `path` holds something else.
    """
    path = Path(path).resolve()  # "." has no name to put a sibling beside, and a link is filled where it leads
    partial: Path | None = None
    try:
        with _writing(path):
            older = path.exists()
            if older:
                check_replaceable(path, ("*",))
            partial = _beside(path / "new" if older and not _has_room_beside(path) else path, PARTIAL)
            partial.mkdir(parents=True)
            yield partial
            if older:
                _refill(path, partial, own)
            else:
                partial.rename(path)
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def check_writable(path: str | Path) -> None:
    """See that a folder can be written, before the work that fills it.

    Raises:
        ResultError: it cannot.
    """
    path = Path(path).resolve()
    made: list[Path] = []
    try:
        with _writing(path):
            made += [folder for folder in (path, *path.parents) if not folder.exists()]
            trial = _beside(path / "new", PARTIAL)
            made.insert(0, trial)
            trial.mkdir(parents=True)
    finally:
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def check_replaceable(path: Path, own: Sequence[str]) -> None:
    """Refuse a folder that holds anything but what `own` (patterns of names) allows.

    Raises:
        ResultError: a file is there, or a folder with other things.
    """
    with _writing(path):
        if path.exists() and not path.is_dir():
            raise ResultError(
                path, expected="a folder or nothing", got="a file", remedy="choose another output or remove it"
            )
        names = sorted(item.name for item in path.iterdir()) if path.exists() else []
    foreign = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in (*own, PARTIAL + "*"))]
    if foreign:
        raise ResultError(
            path,
            expected="an empty folder or an older version of the same output",
            got=f"a folder with other files ({', '.join(foreign[:3])})",
            remedy="choose another output, or move those files away",
        )


def _has_room_beside(path: Path) -> bool:
    """Whether what is made beside a folder can be moved into it: not where it is mounted, or its parent is closed."""
    return path.stat().st_dev == path.parent.stat().st_dev and os.access(path.parent, os.W_OK)


def _refill(path: Path, new: Path, own: Sequence[str]) -> None:
    """Put what folder `new` holds in the place of an older version's content."""
    check_replaceable(path, [*own, *(escape(item.name) for item in new.iterdir())])
    old = _beside(new, OLDER)
    old.mkdir()
    aside = [item for item in path.iterdir() if item not in (new, old)]
    put: list[Path] = []
    try:
        for item in aside:
            item.rename(old / item.name)
        for item in list(new.iterdir()):
            put.append(item.rename(path / item.name))
    except BaseException:
        for item in put:
            item.rename(new / item.name)
        for item in list(old.iterdir()):
            item.rename(path / item.name)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)  # the new version is there, whatever becomes of the old one


def _beside(path: Path, prefix: str) -> Path:
    return path.with_name(f"{prefix}{uuid.uuid4().hex[:12]}")


@dataclass(frozen=True, eq=False)
class Contents:
    """What a mesh or cloud file holds, in its own unit and order.

    Args:
        vertices: (n, 3), every vertex of the file.
        faces: (m, 3) triangles, or None for clouds.
        colours: (n, 3) uint8, or None.
        normals: (n, 3), or None.
        texture: texture of the faces, or None.
    """

    vertices: Points
    faces: Faces | None = None
    colours: Colours | None = None
    normals: Points | None = None
    texture: Texture | None = None
