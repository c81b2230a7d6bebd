"""What a large set of videos would take on many machines, projected from what is measured here."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from dfdetect.benchmark.bench import LEAST_VIDEOS
from dfdetect.data.extract import extract
from dfdetect.data.faceset import FaceSet
from dfdetect.data.shards import ShardWriter
from dfdetect.errors import ArgumentError
from dfdetect.runtime.device import available_cores
from dfdetect.video.discovery import find_videos

# Bytes a second into and out of each machine, which cannot be measured on one: 1 Gbit/s.
NETWORK = 125e6
HOUR = 3600.0
GB = 1e9


def parse_plan(videos: str, nodes: str) -> tuple[int, list[int]]:
    """Numbers of videos, and of machines, which commas stand between.

    Raises:
        ArgumentError: They are no numbers from 1.

    Example:
        >>> parse_plan("119154", "1,8,64")
        (119154, [1, 8, 64])
    """
    try:
        numbers = [int(text) for text in (videos, *nodes.split(","))]
    except ValueError as error:
        raise ArgumentError(f"a plan needs whole numbers, as 119154 1,8,64 ({error})") from error
    if min(numbers) < 1:
        raise ArgumentError(
            f"a plan needs at least one video and one node, not {videos} and {nodes}"
        )
    return numbers[0], numbers[1:]


def plan(
    paths: Sequence[str | Path],
    bench: dict[str, Any],
    videos: int,
    nodes: Sequence[int],
    frames: int,
    device: str = "auto",
    progress: bool = False,
) -> dict[str, Any]:
    """Project the time, disk and memory that scoring and extracting take on some machines.

    Measured here, on the videos given: seconds a video, bytes of videos and crops, how fast crops
    are written, memory. Projected: that machines do not slow each other down, so that the work is
    shared out evenly; that each gets its videos and sends its crops at 1 Gbit/s, and one writes all
    crops; and that processes, one a core, each hold what this one does. What takes longest is the
    bound.

    Args:
        paths: The videos that `bench` was measured on.
        bench: What it gave.
        videos: Number of videos of the large set.
        nodes: Numbers of machines like this one to plan for.
        frames: Number of frames sampled from each video.
        device: As in `load_detector`.
        progress: Show a progress bar.

    Returns:
        `measured` and `projected`, for each job and number of machines one entry with `hours` and
        the `bound` that holds it (`compute`, `network` or `writer`), the `hours_of` each of these,
        `disk_gb` that is written, and `memory_gb` of each machine.

    Example:
        >>> result = plan(["videos"], bench("videos"), 119_154, [1, 8, 64], frames=32)
        >>> result["projected"][0]["hours"]
        41.2
    """
    measured = _measure(paths, frames, device, progress)
    measured["predict_seconds"] = bench["seconds_per_video"]
    measured["process_mb"] = bench["process_mb"]
    return {
        "videos": videos,
        "cores": available_cores(),
        "network_bytes_per_second": NETWORK,
        "measured": measured,
        "projected": [
            {"job": job, "nodes": count, **_project(measured, job, videos, count)}
            for job in ("predict", "extract")
            for count in nodes
        ],
    }


def report(result: dict[str, Any]) -> str:
    """The result of `plan` as a Markdown table, with what it rests on."""
    measured = result["measured"]
    rows = [
        f"| {row['job']} | {row['nodes']} | {row['hours']:.1f} | {row['bound']} | "
        f"{row['disk_gb']:.1f} | {_memory(row['memory_gb'])} |"
        for row in result["projected"]
    ]
    return "\n".join(
        [
            f"measured: {measured['predict_seconds']:.2f} s a video to predict, "
            f"{measured['extract_seconds']:.2f} s to extract on {result['cores']} cores; "
            f"{measured['video_bytes'] / 1e6:.2f} MB a video, {measured['crop_bytes'] / 1e6:.2f} "
            f"MB of crops from it, written at {measured['write_bytes_per_second'] / 1e6:.0f} MB/s",
            f"projected for {result['videos']} videos and machines like this one, at "
            f"{NETWORK * 8 / 1e9:g} Gbit/s each:",
            "",
            "| job | machines | hours | bound | GB written | GB of memory each |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def _measure(
    paths: Sequence[str | Path], frames: int, device: str, progress: bool
) -> dict[str, float]:
    """What extracting takes on this machine, a video."""
    found = list(find_videos(paths).values())
    rounds = -(-LEAST_VIDEOS * available_cores() // len(found))
    with TemporaryDirectory(prefix="dfdetect-") as folder:
        videos, index = Path(folder, "real"), Path(folder, "faces.csv")
        videos.mkdir()
        for number, path in enumerate(found * rounds):
            (videos / f"{number:06}{path.suffix}").symlink_to(path.absolute())
        start = perf_counter()
        done = extract([videos], out=index, frames=frames, device=device, progress=progress)
        seconds = perf_counter() - start
        written = sum(path.stat().st_size for path in Path(folder).glob("faces*"))
        rate = _write_rate(index) if done["crops"].sum() else float("inf")
    return {
        "extract_seconds": seconds / len(done),
        "video_bytes": sum(path.stat().st_size for path in found) / len(found),
        "crop_bytes": written / len(done),
        "write_bytes_per_second": rate,
    }


def _write_rate(index: Path) -> float:
    """Bytes a second that the one writer of a face set writes: crops, and their rows."""
    faces = FaceSet.read(index)
    crops = [place.read() for place in faces.locations]
    copy = index.with_name("copy.csv")
    start = perf_counter()
    with ShardWriter(copy, (0, 0)) as shards:
        for name, crop in zip(faces.table["id"], crops, strict=True):
            shards.add(f"{name}.jpg", crop)
        shards.flush()
    faces.table.to_csv(copy, index=False)
    return sum(map(len, crops)) / (perf_counter() - start)


def _project(measured: dict[str, Any], job: str, videos: int, nodes: int) -> dict[str, Any]:
    written = videos * measured["crop_bytes"] if job == "extract" else 0.0
    read = videos * measured["video_bytes"] / nodes
    seconds = {
        "compute": videos * measured[f"{job}_seconds"] / nodes,
        # The machine that writes gets the crops of all others.
        "network": max(read, written) / NETWORK,
        "writer": written / measured["write_bytes_per_second"],
    }
    bound = max(seconds, key=seconds.get)
    process = measured["process_mb"]
    return {
        "hours": seconds[bound] / HOUR,
        "bound": bound,
        "hours_of": {name: value / HOUR for name, value in seconds.items()},
        "disk_gb": written / GB,
        "memory_gb": None if process is None else process * available_cores() / 1024,
    }


def _memory(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"
