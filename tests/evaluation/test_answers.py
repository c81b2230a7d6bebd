import numpy as np
import pandas as pd
import pytest

from dfdetect.data.faceset import FaceSet
from dfdetect.evaluation.answers import Answer, Answers, score_face_set
from dfdetect.runtime.executor import Executor


@pytest.fixture
def executor():
    with Executor("cpu", workers=2) as executor:
        yield executor


def answer(label, probability, tracks=()):
    return Answer(
        name="a", label=label, group="a", source="", probability=probability, tracks=tracks
    )


def test_probabilities_without_a_score_are_the_prior():
    answers = Answers([answer("REAL", np.nan), answer("FAKE", 0.9, [np.array([0.8, 0.9])])])
    assert answers.probabilities.tolist() == [0.5, 0.9]
    assert answers.labels.tolist() == [0, 1]


def test_answers_frames_know_their_answer():
    rows = [answer("REAL", np.nan), answer("FAKE", 0.9, [np.array([0.8, 0.9]), np.array([0.1])])]
    probabilities, owners = Answers(rows).frames()
    assert probabilities.tolist() == [0.8, 0.9, 0.1]
    assert owners.tolist() == [1, 1, 1]
    assert Answers(rows).table()[["tracks", "crops"]].to_numpy().tolist() == [[0, 0], [2, 3]]


def test_score_face_set_keeps_the_order_of_single_crops(detector, face_set, executor):
    faces = FaceSet.read(face_set)
    answers = score_face_set(detector, faces, executor)
    assert answers.texts("name").tolist() == faces.table["id"].tolist()
    single = detector.predict_faces([faces.image(20)])[0]
    assert answers.probabilities[20] == pytest.approx(single, abs=1e-5)


def test_score_face_set_gives_each_video_one_answer(detector, face_set, executor):
    table = pd.read_csv(face_set, dtype=str)
    table[["video", "track", "frame"]] = ""
    # A video has two tracks, the first in reversed order. A fake was made from the video.
    rows = [0, 2, 4, 6, 1]
    table.loc[rows, "video"] = "a.mp4"
    table.loc[rows, "track"] = ["0", "0", "1", "1", "0"]
    table.loc[rows, "frame"] = list("10010")
    table.to_csv(face_set, index=False)
    faces = FaceSet.read(face_set)
    answers = score_face_set(detector, faces, executor)
    assert len(answers) == 45
    real, fake = (
        next(row for row in answers.rows if (row.name, row.label) == ("a.mp4", label))
        for label in ("REAL", "FAKE")
    )
    assert [len(track) for track in real.tracks] == [2, 2]
    assert [len(track) for track in fake.tracks] == [1]
    tracks = [[faces.image(row) for row in track] for track in ((2, 0), (4, 6))]
    aggregation = detector.spec.aggregation
    expected = aggregation.probability(aggregation.video_logit(detector.frame_logits(tracks)))
    assert real.probability == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("how", ["jpeg", "half", "dark"])
def test_score_face_set_of_damaged_crops_differs(detector, face_set, executor, how):
    faces = FaceSet.read(face_set).select(np.arange(8))
    clean = score_face_set(detector, faces, executor).probabilities
    damaged = score_face_set(detector, faces, executor, degrade=how).probabilities
    assert 0 < np.abs(damaged - clean).mean() < 0.5
