import pytest

from dfdetect.results import Status, TrackResult, VideoResult
from dfdetect.runtime import budget as module
from dfdetect.runtime.budget import OutOfTimeError, TimeBudget, parse_duration

FACE = TrackResult(0.5, [0.0], [(0.0, 0.0, 9.0, 9.0)], [0.5])


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def score_one(budget, clock, decode=1.0, frame=0.1, side_by_side=2):
    """Record a video that takes `decode` seconds, and `frame` seconds for each sampled frame.

    The clock advances as if `side_by_side` videos were scored at the same time.
    """
    frames = budget.frames()
    rest = frame * frames
    clock.now += (decode + rest) / side_by_side
    seconds = {
        "decode": decode,
        "detect": rest / 2,
        "classify": rest / 2,
        "wait": 3.0,
        "total": 9.0,
    }
    result = VideoResult(path=None, name="a.mp4", probability=0.5, tracks=[FACE], timings=seconds)
    budget.record(result, frames)
    return frames


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8h30m", 30600), ("45m", 2700), ("90s", 90), ("1h1m1s", 3661), ("1.5h", 5400), (12, 12)],
)
def test_parse_duration_of_all_forms(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "0", "0s", "30m8h", "nan", "inf"])
def test_parse_duration_refuses_other_text(text):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_time_budget_with_enough_time_gives_all_frames(clock):
    budget = TimeBudget(1000, videos=100, frames=32)
    assert [score_one(budget, clock) for _ in range(100)] == [32] * 100


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_time_budget_with_little_time_gives_fewer_frames(clock, share):
    whole = 100 * (1.0 + 3.2) / 2
    budget = TimeBudget(share * whole, videos=100, frames=32)
    start = clock.now
    taken = [score_one(budget, clock) for _ in range(100)]
    assert taken[0] == 32
    assert 4 < taken[-1] < 32
    assert 0.9 * share * whole < clock.now - start < share * whole
    budget.check()


def test_time_budget_runs_out_of_time(clock):
    budget = TimeBudget(20, videos=100, frames=32)
    for _ in range(12):
        score_one(budget, clock)
    assert budget.frames() == 4
    clock.now = 118.5
    with pytest.raises(OutOfTimeError):
        budget.check()


def test_time_budget_ignores_videos_without_faces(clock):
    budget = TimeBudget(60, videos=40, frames=32)
    budget.record(VideoResult.without_score(None, "a.mp4", Status.EMPTY_FILE), 32)
    assert budget.frames() == 32
