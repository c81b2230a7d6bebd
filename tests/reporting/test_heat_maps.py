import numpy as np

from dfdetect import HeatMap
from dfdetect.reporting.heat_maps import paint_heat_map


def test_paint_heat_map_reddens_where_the_evidence_is():
    crop = np.full((40, 60, 3), (200, 150, 120), np.uint8)
    values = np.array([[0, 0, 0], [0, 0, 1]], np.float32)
    painted = paint_heat_map(HeatMap(1.0, crop, values)).astype(int)
    assert painted.shape == crop.shape
    redness = painted[..., 0] - painted[..., 2]
    assert redness[35, 55] > 150
    assert (redness[:10, :20] == 0).all(), "without evidence, the face is grey"
    assert redness[35, 55] == redness.max()
