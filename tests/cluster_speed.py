"""Measure how much faster a cluster of two machines is than one machine.

The machines are processes of this machine, with one core each.

    python tests/cluster_speed.py ../shared/data/videos/dfdc --clips 60

The script needs two idle cores. It scores links to the videos in a folder, first with one machine
and then with two, and checks that both submissions are the same.
"""

import argparse
import os
import tempfile
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter

from dfdetect.prediction import predict
from dfdetect.video.discovery import find_videos

NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}


def seconds(videos: Path, out: Path, nodes: int) -> float:
    """Return the seconds from the call of `predict` to the finished submission."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    for _ in range(nodes - 1):
        cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    start = perf_counter()
    predict(videos, out=out, cluster=cluster.address)
    taken = perf_counter() - start
    cluster.shutdown()
    return taken


def main() -> None:
    """Measure both times, and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfdetect-") as folder:
        videos = Path(folder, "videos")
        videos.mkdir()
        found = cycle(find_videos([options.folder]).values())
        for number, clip in enumerate(islice(found, options.clips)):
            (videos / f"{number:04}{clip.suffix}").symlink_to(clip.absolute())
        outs = [Path(folder, f"{nodes}.csv") for nodes in (1, 2)]
        one, two = (seconds(videos, out, nodes) for nodes, out in enumerate(outs, start=1))
        same = outs[0].read_bytes() == outs[1].read_bytes()
    print(f"one machine {one:.1f} s, two {two:.1f} s: {one / two:.2f} times as fast")
    print("the same submission" if same else "THE SUBMISSIONS DIFFER")


if __name__ == "__main__":
    main()
