"""Data sets as streams of samples (installed as ``rad3d.datasets``)."""

if not __name__.startswith("rad3d."):
    raise ImportError("rad3d's data sets are imported as `rad3d.datasets`: install with `pip install .`")
