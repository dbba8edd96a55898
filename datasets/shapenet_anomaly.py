"""Anomaly-ShapeNet: synthetic clouds without a physical unit, in Real3D-AD's manner.

`<part>/train/*_template*.pcd`, `<part>/test/<part>_<positive|defect><n>.pcd`, `<part>/GT/<stem>.txt` (comma separated
`x,y,z,label`); "positive" means good. Coordinates are about 1 in size: one unit is read as 100 mm, so that lengths in
millimetres, as defaults are, mean something.
"""

from pathlib import Path

from rad3d.datasets.real3d import list_clouds
from rad3d.datasets.sample import Choice, DatasetInfo, Sample

INFO = DatasetInfo(
    name="shapenet_anomaly",
    title="Anomaly-ShapeNet",
    source="https://github.com/Chopper-233/Anomaly-ShapeNet",
    licence="see the repository; made from ShapeNet, whose terms hold",
    size="40 parts, about 1,600 clouds; the repository lists the archives",
    layout="[dataset/pcd/]<part>/train/*_template*.pcd, <part>/test/*.pcd, <part>/GT/<stem>.txt",
)
MM_PER_UNIT_OF_SHAPE = 100.0


def load(root: Path, choice: Choice) -> list[Sample]:
    """List the samples; `root` may be the archive's own folder with dataset/pcd/ in it."""
    return list_clouds(root, choice, INFO.name, label_folder="GT", scale=MM_PER_UNIT_OF_SHAPE, depth=3)
