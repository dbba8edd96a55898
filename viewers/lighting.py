"""Light for viser's page, under which a mesh has the colours of its legend.

The page maps light to colours as films do (`ACESFilmicToneMapping` of three.js, src/renderers/shaders/ShaderChunk/
tonemapping_pars_fragment.glsl.js, after S. Hill), which makes light colours greyer and dark ones darker. So a vertex
gets the light that this maps to its colour.
"""

import numpy as np

from rad3d.arrays import Colours
from rad3d.viewers.exports import light_of

FULL = 1.1
"""Brightness of a fully lit vertex of value 1: what is mapped to `BRIGHTEST`."""
BRIGHTEST = 0.9
"""Of white: the map leaves nearly no difference between light and shadow above that."""
AMBIENT = 0.5
LAMPS = (((-0.5, -0.7, 1.0), 0.34), ((0.8, 0.3, -0.7), 0.16))
"""Towards the lamps, and their share of the light; with the ambient light no more than 1."""

_INTO = np.array([[0.59719, 0.35458, 0.04823], [0.07600, 0.90834, 0.01566], [0.02840, 0.13383, 0.83777]]) / 0.6
_OUT = np.array([[1.60475, -0.53108, -0.07367], [-0.10208, 1.10813, -0.00605], [-0.00327, -0.07276, 1.07602]])


def before_tone_mapping(colours: Colours) -> Colours:
    """Display colours (n, 3) uint8 -> linear light (n, 3) uint8, in units of `FULL` / 255, shown as these colours."""
    shown = np.clip(np.linalg.solve(_OUT, light_of(BRIGHTEST * colours / 255.0).T), 0, None)
    # shown = (v^2 + 0.0245786 v - 0.000090537) / (0.983729 v^2 + 0.432951 v + 0.238081), solved for v
    a, b, c = 1 - 0.983729 * shown, 0.0245786 - 0.432951 * shown, -0.000090537 - 0.238081 * shown
    v = (-b + np.sqrt(b**2 - 4 * a * c)) / (2 * a)
    light = np.linalg.solve(_INTO, v).T / FULL
    return np.asarray((255 * light).clip(0, 255).round().astype(np.uint8))
