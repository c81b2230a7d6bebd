"""Run a few cases of `fuzz.py`: random cases that never change, and cases with known results."""

import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfdetect import CheckpointError, VideoError, find_weights
from dfdetect.checkpoints.io import load_checkpoint
from dfdetect.results import Status
from dfdetect.video.isolated import DecoderPool
from tests.fuzz import KINDS, Mutation, damaged, fuzz_checkpoints, fuzz_videos, is_promised

MUTATIONS = st.lists(
    st.builds(
        Mutation,
        kind=st.sampled_from(KINDS),
        where=st.floats(0, 1),
        length=st.integers(1, 5000),
        seed=st.integers(0, 2**31),
    ),
    min_size=1,
    max_size=5,
)
# Cases of `fuzz.py videos`, one for each status. In the first case, FFmpeg requests gigabytes of
# memory. The cases depend on the sample videos. If these videos change, find other cases.
FOUND = {
    58730: Status.DECODER_OUT_OF_MEMORY,
    431: Status.NO_DECODER,
    2103: Status.NO_VIDEO_STREAM,
    2956: Status.NO_FRAME,
}
QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def clip(sample_data):
    return (sample_data / "test_videos" / "ehtdtkmmli.mp4").read_bytes()


def changed(data, mutations):
    for mutation in mutations:
        data = mutation.apply(data)
    return data


def test_damaged_is_deterministic_and_not_the_original(sample_data):
    videos = sorted((sample_data / "test_videos").glob("*.mp4"))
    for number in range(50):
        data = damaged(videos, number)
        assert data == damaged(videos, number)
        assert data not in [video.read_bytes() for video in videos]


def test_apply_of_each_kind_of_mutation():
    data = bytes(range(200))
    sizes = {kind: len(Mutation(kind, 0.5, 10, 1).apply(data)) - len(data) for kind in KINDS}
    assert sizes == {**dict.fromkeys(KINDS, 0), "cut": -100, "drop": -10, "repeat": 10}
    for kind in KINDS:
        assert Mutation(kind, 0.5, 10, 1).apply(data) != data


@pytest.mark.slow
def test_fuzz_videos_gives_a_score_or_a_documented_reason():
    scores = fuzz_videos(0, 150, progress=False)
    assert {number: one for number, one in scores.items() if not is_promised(one)} == {}
    assert len({score.status for score in scores.values()}) >= 4
    assert sum(score.status == "ok" for score in scores.values()) >= 10


@pytest.mark.parametrize(("number", "status"), FOUND.items())
def test_read_frames_of_damaged_files_found_before(sample_data, tmp_path, number, status):
    if status == Status.DECODER_OUT_OF_MEMORY and sys.platform != "linux":
        pytest.skip("other systems do not keep the limit")
    path = tmp_path / "found.mp4"
    path.write_bytes(damaged(sorted(sample_data.glob("*_videos/*.mp4")), number))
    with DecoderPool(threads=1) as decoders, pytest.raises(VideoError) as caught:
        list(decoders.read_frames(path, 2))
    assert caught.value.status == status


@pytest.fixture(scope="module")
def decoders():
    with DecoderPool(threads=1) as pool:
        yield pool


@QUICK
@given(mutations=MUTATIONS)
@pytest.mark.slow
def test_read_frames_of_damaged_files_ends_with_frames_or_a_reason(
    tmp_path, clip, mutations, decoders
):
    path = tmp_path / "damaged.mp4"
    path.write_bytes(changed(clip, mutations))
    try:
        frames = list(decoders.read_frames(path, 4, seconds=30))
    except VideoError as error:
        status = error.status
        assert status not in (Status.OK, Status.FAILED)
    else:
        assert 1 <= len(frames) <= 4
        times = [frame.time for frame in frames]
        assert times == sorted(times)
        assert np.isfinite(times).all()


@pytest.mark.slow
def test_fuzz_checkpoints_refuses_damaged_files():
    outcomes = fuzz_checkpoints(0, 200, progress=False)
    assert {number: text for number, text in outcomes.items() if "WRONG" in text} == {}
    kinds = ("truncated", "checksum", "do not fit", "not a checkpoint", "not a usable")
    assert sum(any(kind in text for text in outcomes.values()) for kind in kinds) >= 3


@QUICK
@given(mutations=MUTATIONS)
def test_load_checkpoint_refuses_damaged_files(tmp_path, mutations):
    original = find_weights("logistic_regression").read_bytes()
    data = changed(original, mutations)
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(data)
    if data == original:
        load_checkpoint(path)
        return
    with pytest.raises(CheckpointError, match=r"damaged\.safetensors"):
        load_checkpoint(path)
