"""Captured specimens: images with organised clouds, as sensors write them."""

import re
from pathlib import Path

from rad3d.errors import ScanError
from rad3d.scan import Unit
from rad3d.view import View

_PARTS = ("images", "rgb", "xyz")
_SENSOR = re.compile(
    r"(mechmind|realsense|zed|zivid|photoneo|ensenso|kinect|azure).*"
    r"|(nano|lsr-?l?|rs|sensor|camera|cam)[-_ ]?[a-z]?\d*",
    re.IGNORECASE,
)


def _holds_views(folder: Path) -> bool:
    return any((folder / part).is_dir() for part in _PARTS)


def _sensors(folder: Path, sensor: str | None) -> dict[str, Path]:
    """Sub-folders that are sensors by their name (or the one asked for) and hold views."""
    return {
        item.name: item
        for item in sorted(folder.iterdir())
        if item.is_dir() and (item.name == sensor or _SENSOR.fullmatch(item.name)) and _holds_views(item)
    }


def is_captured(folder: Path, sensor: str | None = None) -> bool:
    """Whether a directory is one captured specimen."""
    return _holds_views(folder) or bool(_sensors(folder, sensor))


def sensor_folder(folder: Path, sensor: str | None = None) -> Path:
    """The folder with the views of one sensor.

    Raises:
        ScanError: no views there, several sensors and none chosen, or the chosen one is not there.
    """
    if _holds_views(folder):
        return folder
    sensors = _sensors(folder, sensor)
    if sensor is not None and sensor in sensors:
        return sensors[sensor]
    if len(sensors) == 1 and sensor is None:
        return next(iter(sensors.values()))
    if not sensors:
        raise ScanError(
            folder,
            expected="a captured specimen (a folder with images/ and xyz/)",
            got="no such folder in it",
            remedy="give a scan file or the folder of one specimen",
        )
    raise ScanError(
        folder,
        expected="one sensor" if sensor is None else f"the sensor '{sensor}'",
        got=f"the sensors {', '.join(sensors)}",
        remedy=f"choose one, e.g. --sensor {next(iter(sensors))}",
    )


def read_captured(folder: Path, *, sensor: str | None = None, unit: Unit | None = None) -> tuple[View, ...]:
    """Views of a captured specimen."""
    folder = sensor_folder(folder, sensor)
    raise NotImplementedError
