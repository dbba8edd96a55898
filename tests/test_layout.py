"""The map of the package holds: modules import only from above, importing is cheap, every doctest runs."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import rad3d

ORDER = """
arrays errors threads progress settings geometry camera view scan files ply meshes clouds organised captured io segment
icp symmetry reference query settle agree register joint assemble
render.shading render.raycast render.splat render.rasterize render
viewpoints onnx_weights downloads weights encoder patches memory retrieval surface pigment labelled mrad prompted expert
backproject fusion calibration deviation metrics result defects feedback coloured observe golden evidence arrange
likeness fitting inspector zeroshot
""".split()
TOP = [
    "datasets",
    "viewers",
    "prediction",
    "looks",
    "auxiliary",
    "methods",
    "baselines",
    "instances",
    "scoring",
    "sheets",
    "evaluate",
    "demo",
    "describe",
    "terminal",
    "cli",
]
ROOT = Path(rad3d.__file__).parents[1]


def modules():
    return [
        info.name.removeprefix("rad3d.")
        for info in pkgutil.walk_packages(rad3d.__path__, "rad3d.")
        if not info.name.endswith("__main__")
    ]


def place(module):
    """Where a module stands in the order; everything in datasets and viewers shares one place."""
    if module.split(".")[0] in ("datasets", "viewers"):
        return len(ORDER) + TOP.index(module.split(".")[0])
    return (ORDER + TOP).index(module)


@pytest.mark.parametrize("module", modules())
def test_modules_import_only_from_above(module):
    for node in ast.walk(ast.parse(Path(importlib.util.find_spec(f"rad3d.{module}").origin).read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("rad3d."):
            continue
        used = node.module.removeprefix("rad3d.")
        same_package = used.split(".")[0] == module.split(".")[0] and used.split(".")[0] in ("datasets", "viewers")
        renderers = module == "render" and used.startswith("render.")
        assert same_package or renderers or place(used) < place(module), f"{module} imports {used} from below"


def test_every_module_has_its_place():
    unknown = [m for m in modules() if m.split(".")[0] not in (*TOP, *(o.split(".")[0] for o in ORDER))]
    assert not unknown


@pytest.mark.parametrize("module", modules())
def test_doctests(module):
    if module == "render.rasterize":
        pytest.importorskip("pytorch3d")
    result = doctest.testmod(importlib.import_module(f"rad3d.{module}"))
    assert result.failed == 0


def fresh(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_rad3d_is_cheap():
    heavy = "torch timm open3d faiss matplotlib scipy trimesh".split()
    code = (
        "import time, sys; t = time.perf_counter(); import rad3d; t = time.perf_counter() - t\n"
        f"print(t, [m for m in {heavy} if m in sys.modules])"
    )
    seconds, loaded = fresh(code).split(" ", 1)
    assert loaded.strip() == "[]"
    assert float(seconds) < 0.3


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom rad3d import cli\ntry:\n    cli.main(['--help'])\nexcept SystemExit: pass\n"
        "sys.stdout.flush(); print([m for m in ('torch', 'timm', 'scipy', 'trimesh') if m in sys.modules])"
    )
    assert fresh(code).splitlines()[-1] == "[]"


def test_every_public_name_resolves():
    for name in rad3d.__all__:
        assert getattr(rad3d, name) is not None


def test_only_the_command_line_prints():
    for path in (ROOT / "rad3d").rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        printed = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        assert not printed or path.name in ("cli.py", "terminal.py")
