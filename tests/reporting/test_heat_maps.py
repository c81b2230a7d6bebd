from types import SimpleNamespace

import numpy as np
import pytest

from dfdetect import HeatMap, TrackResult, VideoResult
from dfdetect.reporting.heat_maps import (
    HeatMapStore,
    describe_heat_map,
    paint_heat_map,
    picture_heat_maps,
)


def test_paint_heat_map_reddens_where_the_evidence_is():
    crop = np.full((40, 60, 3), (200, 150, 120), np.uint8)
    values = np.array([[0, 0, 0], [0, 0, 1]], np.float32)
    painted = paint_heat_map(HeatMap(1.0, crop, values)).astype(int)
    assert painted.shape == crop.shape
    redness = painted[..., 0] - painted[..., 2]
    assert redness[35, 55] > 150
    assert (redness[:10, :20] == 0).all(), "without evidence, the face is grey"
    assert redness[35, 55] == redness.max()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ((0, 0), "strongest in the upper left"),
        ((3, 3), "strongest in the lower right"),
        ((3, 1), "strongest in the lower left"),
    ],
)
def test_describe_heat_map_says_where_the_evidence_is(place, words):
    values = np.zeros((4, 4), np.float32)
    values[place] = 1
    assert describe_heat_map(HeatMap(0.0, np.zeros((8, 8, 3), np.uint8), values)) == words


def test_describe_heat_map_without_evidence():
    nothing = HeatMap(0.0, np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4), np.float32))
    assert describe_heat_map(nothing) == "no evidence for FAKE"


def test_heat_map_store_gives_back_what_was_put_into_it():
    maps = [HeatMap(2.0, np.full((8, 8, 3), 90, np.uint8), np.ones((4, 4), np.float32))]
    face = TrackResult(0.8, [2.0], [(0.0, 0.0, 8.0, 8.0)], [0.8], heat_maps=maps)
    result = VideoResult(path=None, name="a.mp4", probability=0.8, tracks=[face, face])
    with HeatMapStore() as store:
        store.put("a.mp4", result)
        store.put("b.mp4", VideoResult(path=None, name="b.mp4"))
        assert store.get("a.mp4") == picture_heat_maps(result)
        assert store.get("b.mp4") == []
        assert store.get("c.mp4") is None


def test_heat_map_store_keeps_earlier_pictures_if_the_disk_is_full():
    maps = [HeatMap(2.0, np.full((8, 8, 3), 90, np.uint8), np.ones((4, 4), np.float32))]
    face = TrackResult(0.8, [2.0], [(0.0, 0.0, 8.0, 8.0)], [0.8], heat_maps=maps)
    result = VideoResult(path=None, name="a.mp4", probability=0.8, tracks=[face])
    with HeatMapStore() as store:
        store.put("a.mp4", result)
        whole = store._file
        store._file = SimpleNamespace(seek=whole.seek, write=lambda content: 10)
        with pytest.raises(OSError, match="No space left"):
            store.put("b.mp4", result)
        store._file = whole
        assert store.get("a.mp4") == picture_heat_maps(result)
        assert store.get("b.mp4") is None
