"""Damage videos and checkpoints at random, and check how dfdetect handles them.

    python tests/fuzz.py videos --count 2000
    python tests/fuzz.py checkpoints --count 200

Each case has a number, by which it can be repeated: `--first NUMBER --count 1`. A damaged video
must get a score or a documented status, and a damaged checkpoint must be refused. The exit status
is 1 if any case has another outcome.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import numpy as np
import psutil
from tqdm import tqdm

from dfdetect import CheckpointError, VideoResult, find_weights, predict
from dfdetect.checkpoints.io import load_checkpoint
from dfdetect.kaggle.submission import check_submission
from dfdetect.results import Status

REPOSITORY = Path(__file__).parent.parent
KINDS = ("flip", "zero", "random", "cut", "drop", "repeat", "number", "swap")
EXTREMES = (0, 1, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
# Share of a file at its beginning and at its end, where headers are, that is damaged more often.
EDGE = 0.02
MOST_MEMORY = 100 * 2**20


@dataclass(frozen=True)
class Mutation:
    """One change to a file.

    Attributes:
        kind: One of `KINDS`.
        where: Share of the file before the change, 0 to 1.
        length: Number of changed bytes, at least 1.
        seed: Seed of the new bytes or of the choice of an extreme number.
    """

    kind: str
    where: float
    length: int
    seed: int

    def apply(self, data: bytes) -> bytes:
        """Return the changed content of a file."""
        start = min(int(self.where * len(data)), max(len(data) - 1, 0))
        end = min(start + self.length, len(data))
        before, part, after = data[:start], data[start:end], data[end:]
        generator = np.random.default_rng(self.seed)
        if self.kind == "cut":
            return before
        if self.kind == "drop":
            return before + after
        if self.kind == "repeat":
            return before + part + part + after
        if self.kind == "swap":
            return before + after[: len(part)] + part + after[len(part) :]
        if self.kind == "zero":
            return before + bytes(len(part)) + after
        if self.kind == "number":
            value = int(generator.choice(EXTREMES)).to_bytes(4, "big")
            return before + value + data[start + 4 :]
        if self.kind == "flip":
            bits = 1 << generator.integers(0, 8, len(part))
            few = generator.random(len(part)) < max(1 / 64, 1 / max(len(part), 1))
            flipped = np.frombuffer(part, np.uint8) ^ np.where(few, bits, 0).astype(np.uint8)
            return before + flipped.tobytes() + after
        return before + generator.bytes(len(part)) + after


def draw(number: int) -> tuple[np.random.Generator, list[Mutation]]:
    """Return the random generator and the mutations of the case with this number."""
    generator = np.random.default_rng(number)
    mutations = []
    for _ in range(int(generator.integers(1, 6))):
        where = generator.random()
        if generator.random() < 0.3:
            where = EDGE * where if generator.random() < 0.5 else 1 - EDGE * where
        length = int(2 ** generator.uniform(0, 12))
        kind = str(generator.choice(KINDS))
        mutations.append(Mutation(kind, float(where), length, int(generator.integers(2**31))))
    return generator, mutations


def damaged(files: Sequence[Path], number: int) -> bytes:
    """Return the damaged content of one of the files, for the case with this number."""
    generator, mutations = draw(number)
    original = data = files[int(generator.integers(len(files)))].read_bytes()
    for mutation in mutations:
        data = mutation.apply(data)
    return data if data != original else data[:-1]


def fuzz_videos(first: int, count: int, progress: bool = True) -> dict[int, VideoResult]:
    """Score damaged copies of the sample videos, and return the results by case number."""
    videos = sorted((REPOSITORY / "sample_data").glob("*_videos/*.mp4"))
    with tempfile.TemporaryDirectory() as folder:
        names = {f"{number:09}.mp4": number for number in range(first, first + count)}
        for name, number in names.items():
            Path(folder, name).write_bytes(damaged(videos, number))
        out = Path(folder, "submission.csv")
        scores = predict(folder, out=out, frames=2, progress=progress)
        check_submission(out, list(names))
    return {names[name]: score for name, score in scores.items()}


def fuzz_checkpoints(first: int, count: int, progress: bool = True) -> dict[int, str]:
    """Load damaged copies of installed weights, and return a text by case number.

    The text is the message of the `CheckpointError`, or begins with `WRONG` if there was none.
    """
    files = [find_weights(name) for name in ("simple_cnn_2", "logistic_regression", None)]
    process = psutil.Process()
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "damaged.safetensors")
        for number in tqdm(range(first, first + count), "checkpoints", disable=not progress):
            path.write_bytes(damaged(files, number))
            before = process.memory_info().rss
            try:
                load_checkpoint(path)
                outcomes[number] = "WRONG: it was loaded"
            except CheckpointError as error:
                outcomes[number] = str(error)
            except Exception as error:  # any other error is a defect
                outcomes[number] = f"WRONG: {type(error).__name__}: {error}"
            if process.memory_info().rss - before > MOST_MEMORY:
                outcomes[number] = "WRONG: it took more than 100 MB"
    return outcomes


def is_promised(score: VideoResult) -> bool:
    """Return whether a result has a score, or a documented status other than `failed`."""
    if score.status == Status.OK:
        return score.probability is not None and 0 < score.probability < 1
    return score.probability is None and score.status != Status.FAILED


@contextmanager
def watched_memory() -> Iterator[list[float]]:
    """Yield a list to which the memory of this process and its decoders is added every second.

    The unit is MB.
    """
    process, notes, ended = psutil.Process(), [], Event()

    def watch() -> None:
        while not ended.wait(1):
            with suppress(psutil.NoSuchProcess):
                family = [process, *process.children()]
                notes.append(sum(one.memory_info().rss for one in family) / 2**20)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield notes
    finally:
        ended.set()
        thread.join()


def main() -> int:
    """Run the cases that the command line names, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["videos", "checkpoints"])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number, and seed, of the first case")
    options = parser.parse_args()
    print(f"cases {options.first} to {options.first + options.count - 1}; the number is the seed")
    if options.what == "checkpoints":
        outcomes = fuzz_checkpoints(options.first, options.count)
        wrong = {number: text for number, text in outcomes.items() if text.startswith("WRONG")}
        print(f"{len(outcomes)} damaged checkpoints, {len(outcomes) - len(wrong)} refused")
    else:
        with watched_memory() as notes:
            scores = fuzz_videos(options.first, options.count)
        wrong = {number: one.message for number, one in scores.items() if not is_promised(one)}
        slowest = max(score.timings.get("total", 0.0) for score in scores.values())
        quarters = [np.median(part) for part in np.array_split(notes, 4) if len(part)]
        print(
            f"the slowest video took {slowest:.1f} s; MB of memory by quarter of the run: ", end=""
        )
        print(*map(round, quarters))
    for number, text in wrong.items():
        print(f"case {number}: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
