import numpy as np
import pandas as pd
import pytest

from dfdetect.data.faceset import FaceSet
from dfdetect.evaluation.subgroups import find_subgroups, measure_attributes
from dfdetect.scoring.reliability import BLURRED, DARK, SMALL, TURNED


def test_measure_attributes_knows_heights_where_the_index_does(face_set):
    faces = FaceSet.read(face_set)
    assert np.isnan(measure_attributes(faces, [0, 1])["height"]).all()
    table = pd.read_csv(face_set, dtype=str).assign(native_px=80)
    table.to_csv(face_set, index=False)
    attributes = measure_attributes(FaceSet.read(face_set), [3, 5, 7])
    assert attributes["height"] == pytest.approx([100, 100, 100])
    assert attributes["brightness"] == pytest.approx(
        [faces.image(row).mean() for row in (3, 5, 7)], abs=1
    )


def test_find_subgroups_are_those_that_results_warn_of():
    usual, hard = np.array([200, 100, 0.1, 0]), np.array([SMALL, DARK, BLURRED, TURNED])
    values = np.tile(usual, (5, 1))
    for number, step in enumerate((-1, -1, -0.01, 0.1)):
        values[number, number] = hard[number] + step
    names = ("height", "brightness", "sharpness", "turn")
    masks = find_subgroups(dict(zip(names, values.T, strict=True)))
    assert list(masks) == ["small", "dark", "blurred", "turned", "other"]
    assert np.array(list(masks.values())).tolist() == np.eye(5, dtype=bool).tolist()
