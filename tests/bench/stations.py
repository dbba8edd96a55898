"""Where the benches observe specimens of a synthetic part: what every one of them sets up in the same way."""

from rad3d.deviation import ReferenceShape
from rad3d.encoder import Encoder
from rad3d.fitting import look_from
from rad3d.observe import Station
from rad3d.reference import build_reference


def station_of(nominal, settings):
    """The station of a part known by its CAD, and which of its surface can be inspected."""
    encoder = Encoder.load(settings.encoder)
    cameras, inspectable = look_from(nominal, settings, encoder)
    shape = ReferenceShape(nominal.surface)
    return Station(shape, build_reference(shape.surface), cameras, encoder, settings), inspectable
