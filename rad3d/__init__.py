"""rad3d: 3D inspection of manufactured parts.

Show it a few good specimens and it finds, with no training, what differs on a new one: on the surface, in
millimetres. Names are imported on first use, so that ``import rad3d`` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULE_OF = {
    "Camera": "camera",
    "Encoder": "encoder",
    "Inspection": "result",
    "Inspector": "inspector",
    "Memory": "memory",
    "Rad3dError": "errors",
    "Scan": "scan",
    "Settings": "settings",
    "View": "view",
    "load_result": "result",
    "read_scan": "io",
    "read_scans": "io",
}

__all__ = ["__version__", *_MODULE_OF]

if TYPE_CHECKING:
    from rad3d.camera import Camera as Camera
    from rad3d.encoder import Encoder as Encoder
    from rad3d.errors import Rad3dError as Rad3dError
    from rad3d.inspector import Inspector as Inspector
    from rad3d.io import read_scan as read_scan
    from rad3d.io import read_scans as read_scans
    from rad3d.memory import Memory as Memory
    from rad3d.result import Inspection as Inspection
    from rad3d.result import load_result as load_result
    from rad3d.scan import Scan as Scan
    from rad3d.settings import Settings as Settings
    from rad3d.view import View as View


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'rad3d' has no attribute {name!r}")
    return getattr(import_module(f"rad3d.{_MODULE_OF[name]}"), name)
