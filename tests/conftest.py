"""What every test module shares."""

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from rad3d import Inspector, Scan
from rad3d.datasets.machine_elements import make_specimen
from rad3d.settings import EncoderSettings, Settings, ViewSettings

SMALL = Settings(encoder=EncoderSettings(input_hw=(224, 224)), views=ViewSettings(count=8))
"""Coarse, so that a test run stays short; the benchmarks use the defaults."""


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


@pytest.fixture(scope="session")
def good_scans() -> list[Scan]:
    """Three good brackets."""
    return [replace(make_specimen("bracket", seed).scan, specimen=f"good_{seed}") for seed in (1, 2, 3)]


@pytest.fixture(scope="session")
def inspector(good_scans: list[Scan]) -> Inspector:
    """Fitted on them, with real features."""
    return Inspector.fit(good_scans, SMALL, part="bracket")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where tests leave pictures for people: the folder $RAD3D_TEST_PICTURES where it is set."""
    folder = Path(os.environ.get("RAD3D_TEST_PICTURES") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
