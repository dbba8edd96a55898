"""Ways to look at results (installed as ``rad3d.viewers``)."""

if not __name__.startswith("rad3d."):
    raise ImportError("rad3d's viewers are imported as `rad3d.viewers`: install with `pip install .`")
