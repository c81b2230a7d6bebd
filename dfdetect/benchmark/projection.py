"""Estimate time, disk and memory for many videos and machines, from measurements on one machine."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from dfdetect.benchmark.bench import LEAST_VIDEOS, BenchResult
from dfdetect.data.extract import extract
from dfdetect.data.faceset import FaceSet
from dfdetect.data.shards import ShardWriter
from dfdetect.defaults import DEFAULT_FRAMES
from dfdetect.errors import ArgumentError
from dfdetect.runtime.device import available_cores
from dfdetect.video.discovery import find_videos

# Assumed network speed of each machine in bytes per second: 1 Gbit/s.
NETWORK = 125e6
HOUR = 3600.0
GB = 1e9


def parse_plan(videos: str, nodes: str) -> tuple[int, list[int]]:
    """Return the arguments `videos` and `nodes` of the function `plan`, parsed from two texts.

    Args:
        videos: The number of videos, as a text.
        nodes: For how many machines to plan: one or more numbers, separated by commas, such as
            `1,8,64`.

    Raises:
        ArgumentError: One of the numbers is not a whole number of at least 1.

    Example:
        >>> parse_plan("119154", "1,8,64")
        (119154, [1, 8, 64])
    """
    try:
        numbers = [int(text) for text in (videos, *nodes.split(","))]
    except ValueError as error:
        raise ArgumentError(
            f"a plan needs whole numbers, such as 119154 1,8,64 ({error})"
        ) from error
    if min(numbers) < 1:
        raise ArgumentError(
            f"a plan needs at least one video and one node, not {videos} and {nodes}"
        )
    return numbers[0], numbers[1:]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Measurements on this machine, from which `project` estimates the time for more videos.

    Attributes:
        predict_seconds: Time for scoring several videos at once, divided by the number of videos.
        extract_seconds: Time for extracting crops from several videos at once, divided by the
            number of videos.
        video_bytes: Mean size of a video in bytes.
        crop_bytes: Mean number of bytes that are written for a video: its crops and their rows in
            the face set's CSV file.
        write_bytes_per_second: Speed at which one process writes crops to a face set. It is
            infinite if there were no crops.
        process_mb: Peak memory of the process in MB, or None if the system does not report it.
    """

    predict_seconds: float
    extract_seconds: float
    video_bytes: float
    crop_bytes: float
    write_bytes_per_second: float
    process_mb: float | None


@dataclass(frozen=True, kw_only=True)
class Projection:
    """The estimated time, disk space and memory of one job on a certain number of machines.

    Attributes:
        job: `predict` (score the videos) or `extract` (extract crops from the videos).
        nodes: Number of machines.
        hours: Duration of the job in hours.
        bound: The part of the job that takes longest: `compute` (the machines score videos or
            extract crops), `network` (they receive videos and send crops) or `writer` (one machine
            writes all crops).
        hours_of: Duration in hours by name of the part: `compute`, `network` and `writer`.
        disk_gb: Size of the files that the job writes, in GB.
        memory_gb: Memory that the job uses on each machine, in GB, or None if it is unknown.
    """

    job: str
    nodes: int
    hours: float
    bound: str
    hours_of: Mapping[str, float]
    disk_gb: float
    memory_gb: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The estimated time, disk space and memory for scoring many videos and extracting crops.

    `str` returns a table for people to read.

    Attributes:
        videos: Number of videos.
        cores: Number of cores of this machine.
        network_bytes_per_second: Assumed network speed of each machine.
        measured: The measurements on this machine.
        projected: One estimate for each combination of a job and a number of machines.
    """

    videos: int
    cores: int
    network_bytes_per_second: float
    measured: Measured
    projected: Sequence[Projection]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON with all attributes."""
        return asdict(self)

    def __str__(self) -> str:
        measured = self.measured
        rows = [
            f"| {row.job} | {row.nodes} | {row.hours:.1f} | {row.bound} | "
            f"{row.disk_gb:.1f} | {_memory(row.memory_gb)} |"
            for row in self.projected
        ]
        return "\n".join(
            [
                f"measured: {measured.predict_seconds:.2f} s per video to predict, "
                f"{measured.extract_seconds:.2f} s to extract on {self.cores} cores; "
                f"{measured.video_bytes / 1e6:.2f} MB per video, "
                f"{measured.crop_bytes / 1e6:.2f} MB of crops per video, written at "
                f"{measured.write_bytes_per_second / 1e6:.0f} MB/s",
                f"projected for {self.videos} videos and machines like this one, at "
                f"{self.network_bytes_per_second * 8 / 1e9:g} Gbit/s each:",
                "",
                "| job | machines | hours | limited by | GB written | GB of memory per machine |",
                "| --- | --- | --- | --- | --- | --- |",
                *rows,
            ]
        )


def plan(
    paths: Sequence[str | Path],
    bench: BenchResult,
    *,
    videos: int,
    nodes: Sequence[int],
    frames: int = DEFAULT_FRAMES,
    device: str = "auto",
    progress: bool = False,
) -> Plan:
    """Estimate the time, disk space and memory for a large set of videos on many machines.

    There are two jobs: scoring the videos, and extracting crops from them. The argument `bench`
    holds the measured time for scoring. This function measures the time for extracting.

    Args:
        paths: The videos that were given to the function `bench`.
        bench: The result of the function `bench`.
        videos: Number of videos in the large set.
        nodes: Numbers of machines like this one, such as 1, 8 and 64. There are estimates for each
            of these numbers.
        frames: Number of frames sampled from each video.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `load_detector`.
        progress: Whether to show a progress bar.

    Example:
        >>> result = plan(["videos"], bench("videos"), videos=119_154, nodes=[1, 8, 64])
        >>> result.projected[0].hours
        41.2
    """
    measured = _measure(paths, bench, frames, device, progress)
    return project(measured, videos=videos, nodes=nodes, cores=available_cores())


def project(measured: Measured, *, videos: int, nodes: Sequence[int], cores: int) -> Plan:
    """Estimate, from measurements, the time, disk space and memory for a large set of videos.

    The estimates assume four things:

    - The machines share the work evenly and do not slow each other down.
    - Each machine receives its videos and sends its crops at 1 Gbit/s.
    - One machine writes all crops.
    - Each core runs a process that uses as much memory as the measured process.

    A job has three parts: computing, sending data over the network, and writing files. All parts
    run at the same time. A job therefore takes as long as its slowest part.

    Args:
        measured: The measurements on this machine.
        videos: Number of videos in the large set.
        nodes: Numbers of machines, such as 1, 8 and 64. The result has estimates for each of these
            numbers.
        cores: Number of cores of each machine.
    """
    return Plan(
        videos=videos,
        cores=cores,
        network_bytes_per_second=NETWORK,
        measured=measured,
        projected=[
            _project(measured, job, videos, count, cores)
            for job in ("predict", "extract")
            for count in nodes
        ],
    )


def _measure(
    paths: Sequence[str | Path], bench: BenchResult, frames: int, device: str, progress: bool
) -> Measured:
    """Extract crops on this machine, and return the measured times, sizes and writing speed."""
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
    return Measured(
        predict_seconds=bench.seconds_per_video,
        extract_seconds=seconds / len(done),
        video_bytes=sum(path.stat().st_size for path in found) / len(found),
        crop_bytes=written / len(done),
        write_bytes_per_second=rate,
        process_mb=bench.process_mb,
    )


def _write_rate(index: Path) -> float:
    """Measure how fast one process writes crops to a face set, and return bytes per second."""
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


def _project(measured: Measured, job: str, videos: int, nodes: int, cores: int) -> Projection:
    extracts = job == "extract"
    written = videos * measured.crop_bytes if extracts else 0.0
    read = videos * measured.video_bytes / nodes
    seconds_each = measured.extract_seconds if extracts else measured.predict_seconds
    seconds = {
        "compute": videos * seconds_each / nodes,
        # One machine receives the crops of all others.
        "network": max(read, written) / NETWORK,
        "writer": written / measured.write_bytes_per_second,
    }
    bound = max(seconds, key=lambda name: seconds[name])
    process = measured.process_mb
    return Projection(
        job=job,
        nodes=nodes,
        hours=seconds[bound] / HOUR,
        bound=bound,
        hours_of={name: value / HOUR for name, value in seconds.items()},
        disk_gb=written / GB,
        memory_gb=None if process is None else process * 1e6 * cores / GB,
    )


def _memory(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"
