"""What every test module shares."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """tests/reference.py, loaded by path because tests/ is not on sys.path."""
    path = Path(__file__).with_name("reference.py")
    spec = importlib.util.spec_from_file_location("rad3d_tests_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
