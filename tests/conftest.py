"""What every test module shares."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from rad3d import Inspector, Scan
from rad3d.datasets.machine_elements import make_specimen
from rad3d.memory import Memory, Provenance
from rad3d.settings import EncoderSettings, Settings, ViewSettings

SMALL = Settings(encoder=EncoderSettings(input_hw=(224, 224)), views=ViewSettings(count=8))
"""Coarse, so that a test run stays short; the benchmarks use the defaults."""


CHROMIUM_FLAGS = (
    "--no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader --ignore-gpu-blocklist"
).split()


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
def small_memory() -> Memory:
    """Made up: two specimens, three views from along the axes; five of its sixty patches lie beside the part."""
    points = np.random.default_rng(0).uniform(0, 1, (3, 4, 5, 3)).astype(np.float32) * np.float32([100, 10, 1])
    points[0, 0] = np.nan
    return Memory(
        fingerprint="clip",
        specimens=tuple(Provenance(name, "gear", f"{name}.ply", "", "2026-01-01") for name in "ab"),
        specimen_index=np.array([0, 0, 1]),
        view_names=("u", "v", "w"),
        descriptors=torch.zeros(3, 1, 2),
        points_mm=points,
        normals=points,
        chroma=points[..., :2],
        directions=np.eye(3, dtype=np.float32),
        features=torch.zeros(3, 1, 4, 5, 2),
    )


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """`with full_disk(n):` no file can grow beyond n bytes; Python ignores the signal, so writes fail."""
    resource = pytest.importorskip("resource", reason="no limits on the size of files here")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where tests leave pictures for people: the folder $RAD3D_TEST_PICTURES where it is set."""
    folder = Path(os.environ.get("RAD3D_TEST_PICTURES") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium that draws WebGL in software."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=found, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()
