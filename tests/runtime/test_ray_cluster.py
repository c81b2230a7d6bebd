"""Tests on a Ray cluster of one to three nodes, which are processes on this machine."""

import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from importlib.metadata import requires
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from dfdetect import prediction
from dfdetect.cli import main
from dfdetect.data.extract import extract
from dfdetect.evaluation.evaluate import evaluate
from dfdetect.prediction import predict
from dfdetect.results import Status
from dfdetect.runtime import ray_cluster as module
from dfdetect.runtime.journal import Journal
from dfdetect.runtime.ray_cluster import map_on_cluster

# Ray reads both variables when it is imported.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
pytest.importorskip("ray")
pytestmark = [pytest.mark.cluster, pytest.mark.slow]
NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
# For tests in which the scores do not matter.
QUICK = {"weights": "logistic_regression", "frames": 2, "progress": False}


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Leave the other cores to the processes of the cluster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ray_cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def address(ray_cluster):
    """Return the address of a cluster of one node, which runs one process."""
    return ray_cluster.address


@pytest.fixture
def second(ray_cluster):
    """Add a second node for the time of a test."""
    node = ray_cluster.add_node(**NODE)
    ray_cluster.wait_for_nodes()
    yield node
    ray_cluster.remove_node(node)


@pytest.fixture
def local(monkeypatch):
    """Return the address of a cluster that starts and ends with each call, and has one process."""
    monkeypatch.setattr(module, "available_cores", lambda: 1)
    return "local"


def map_with(function, items, address):
    return map_on_cluster(lambda: function, items, address, on_lost=lambda item, why: (item, why))


def test_map_on_cluster_gives_results_in_order_from_both_machines(address, second):
    def work(number):
        import ray

        time.sleep(0.3 if number % 5 == 0 else 0.01)
        return number, ray.get_runtime_context().get_node_id(), len(os.sched_getaffinity(0))

    results = [result for _, result in map_with(work, range(30), address)]
    assert [number for number, _, _ in results] == list(range(30))
    assert len({node for _, node, _ in results}) == 2
    assert {cores for _, _, cores in results} == {1}


def test_map_on_cluster_reads_few_items_ahead(address, monkeypatch):
    monkeypatch.setattr(module, "AHEAD", 10)
    drawn = []

    def items():
        for number in range(1000):
            drawn.append(number)
            yield number

    results = map_with(abs, items(), address)
    assert next(results) == (0, 0)
    time.sleep(0.5)
    assert len(drawn) <= 11
    results.close()


def test_map_on_cluster_yields_all_ready_results_at_once(address, second, monkeypatch):
    def work(number):
        time.sleep({0: 1, 9: 8}.get(number, 0.01))
        return number

    monkeypatch.setattr(module, "NODE_POLL_SECONDS", 2.0)
    results = map_with(work, range(10), address)
    assert next(results) == (0, 0)
    time.sleep(1)
    start = time.monotonic()
    assert [next(results)[0] for _ in range(8)] == list(range(1, 9))
    assert time.monotonic() - start < 4
    results.close()


def test_map_on_cluster_reports_a_result_before_older_ones_are_ready(address, second):
    def work(number):
        time.sleep(3 if number == 0 else 0.01)
        return number

    done = []
    results = map_on_cluster(
        lambda: work, range(6), address, on_lost=print, on_done=lambda item, _: done.append(item)
    )
    assert list(results) == [(number, number) for number in range(6)]
    assert sorted(done) == list(range(6))
    assert done[-1] == 0


def test_map_on_cluster_raises_what_the_function_raises(address):
    def work(number):
        raise ValueError(f"{number} is no good")

    with pytest.raises(ValueError, match=r"^3 is no good$"):
        list(map_with(work, [3], address))


def test_map_on_cluster_gives_up_an_item_that_kills_its_process(address):
    def work(number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    assert list(map_with(work, range(5), address)) == [
        *((0, 0), (1, 1)),
        (2, (2, "3 processes were lost while they worked on it")),
        *((3, 3), (4, 4)),
    ]


def test_map_on_cluster_reaches_a_cluster_again_after_a_local_one(
    address, local, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for one in (local, address):
        assert list(map_with(abs, [-1], one)) == [(-1, 1)]
    # Ray would expect a token in the home folder from clusters that were started without one.
    assert not list(tmp_path.iterdir())


def test_map_on_cluster_leaves_a_connection_as_it_was(address, local):
    import ray

    ray.init(address, log_to_driver=False)
    try:
        assert list(map_with(abs, [-1], local)) == [(-1, 1)]
        assert ray.get_runtime_context().gcs_address == address
    finally:
        ray.shutdown()


def test_predict_survives_a_lost_machine_and_a_crashed_decoder(
    ray_cluster, address, second, sample_data, tmp_path, monkeypatch
):
    """Every video has one row, and only the video that crashes its decoder has no score."""
    third = ray_cluster.add_node(**NODE)
    ray_cluster.wait_for_nodes()
    clips = sorted(sample_data.rglob("*.mp4"))
    for number in range(20):
        (tmp_path / f"{number:02}.mp4").symlink_to(clips[number % len(clips)])
    (tmp_path / "crash.mp4").symlink_to(clips[0])
    options = {**QUICK, "frames": 4}
    local = predict(tmp_path, out=tmp_path / "local.csv", **options)
    make_scorer = prediction._make_scorer

    def make_crashing(detector, whole, heat_maps, device, decoders):
        read_frames = decoders.read_frames

        def read_and_crash(path, *rest, **wanted):
            frames = read_frames(path, *rest, **wanted)
            yield next(frames)
            if path.name == "crash.mp4":
                for busy in decoders.busy:
                    busy.process.kill()
                    busy.process.wait()
            yield from frames

        decoders.read_frames = read_and_crash
        return make_scorer(detector, whole, heat_maps, device, decoders)

    monkeypatch.setattr(prediction, "_make_scorer", make_crashing)
    add, added = Journal.add, []

    def add_and_lose_a_machine(journal, name, *rest):
        add(journal, name, *rest)
        added.append(name)
        if len(added) == 5:
            ray_cluster.remove_node(third, allow_graceful=False)

    monkeypatch.setattr(Journal, "add", add_and_lose_a_machine)
    out, details = tmp_path / "cluster.csv", tmp_path / "details.csv"
    predict(tmp_path, out=out, details=details, cluster=address, **options)
    assert sorted(added) == list(local)
    rows = pd.read_csv(details).set_index("filename")
    assert rows.index.tolist() == list(local)
    assert rows.loc["crash.mp4", "status"] == "decoder_crashed"
    assert np.isnan(rows.loc["crash.mp4", "probability"])
    for name, score in local.items():
        if name != "crash.mp4":
            assert rows.loc[name, "status"] == "ok"
            assert rows.loc[name, "probability"] == pytest.approx(score.probability, abs=1e-6)


def test_predict_memory_does_not_grow_with_the_number_of_videos(address, tmp_path):
    """Compare the peak memory of the driver, with more boxes than the longest videos have."""
    code = f"""
import resource, sys
from dfdetect import prediction
from dfdetect.results import TrackResult, VideoResult

def make_scorer(detector, whole, heat_maps, device, decoders):
    def score(task):
        times = [float(number) for number in range(32)]
        boxes = [(0.0, 0.0, 1.0, float(number)) for number in range(1000)] if whole else []
        face = TrackResult(0.5, times, boxes, [])
        return VideoResult(path=task.path, name=task.name, probability=0.5, tracks=[face])
    return score

prediction._make_scorer = make_scorer
paths = [f"{{sys.argv[1]}}/{{number}}.mp4" for number in range(3000)]
prediction.find_videos = lambda paths: {{path: prediction.Path(path) for path in paths}}
seen = 0

def note_peak(result):
    global seen
    seen += 1
    if seen in (100, 3000):
        with open(sys.argv[1] + "/peak_mb.txt", "a") as file:  # Ray writes to standard output
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=file)

prediction.predict(
    paths,
    out=sys.argv[1] + "/out.csv",
    cluster={address!r},
    weights="logistic_regression",
    on_result=note_peak,
)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    few, many = map(float, (tmp_path / "peak_mb.txt").read_text().split())
    assert len(pd.read_csv(tmp_path / "out.csv")) == 3000
    assert many - few < 15


def test_extract_gives_the_same_files_on_a_cluster(address, second, sample_data, tmp_path):
    source = sample_data / "train_sample_videos"
    options = {"frames": 4, "size": 64, "progress": False}
    extract([source], out=tmp_path / "here.csv", **options)
    extract([source], out=tmp_path / "there.csv", cluster=address, **options)
    for end in (".csv", ".videos.csv", "-00000.tar"):
        here, there = (tmp_path / f"{name}{end}" for name in ("here", "there"))
        assert here.read_bytes() == there.read_bytes()


def test_evaluate_gives_the_same_figures_on_a_cluster(address, second, sample_data):
    """The default detector is sent to other processes, too."""
    source = sample_data / "train_sample_videos"
    options = {"frames": 2, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the videos are too few for intervals
        here = evaluate(source, **options)
        there = evaluate(source, cluster=address, **options)
    assert there.answers.probabilities == pytest.approx(here.answers.probabilities, abs=1e-6)
    assert there.metrics.auc == here.metrics.auc


def test_predict_stops_on_a_cluster_when_the_time_is_over(address, sample_data, tmp_path):
    scores = predict(
        sample_data / "test_videos",
        out=tmp_path / "out.csv",
        cluster=address,
        time_budget=3.2,
        progress=False,
    )
    assert {score.status for score in scores.values()} == {Status.OUT_OF_TIME}
    assert len(pd.read_csv(tmp_path / "out.csv")) == len(scores) == 6


def test_predict_on_a_local_cluster(local, sample_data, tmp_path, capsys):
    arguments = ["predict", str(sample_data / "test_videos"), "--out", str(tmp_path / "out.csv")]
    arguments += ["--weights", "logistic_regression", "--frames", "2"]
    assert main([*arguments, "--cluster", local]) == 0
    assert "6 videos, 6 scored" in capsys.readouterr().out
    import ray

    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "nothing answers there"),
        ("nonsense", "not an address; give host:port"),
        ("host:99999999", "nothing answers there"),
    ],
)
def test_predict_refuses_a_cluster_that_does_not_answer(
    address, message, sample_data, tmp_path, capsys
):
    out = tmp_path / "out.csv"
    arguments = [str(sample_data / "test_videos"), "--out", str(out), "--cluster", address]
    assert main(["predict", *arguments, "--weights", "logistic_regression"]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_predict_keeps_an_old_submission_if_ray_cannot_connect(sample_data, tmp_path, monkeypatch):
    import ray

    def refuse(**_):
        raise ConnectionError("no such cluster")

    monkeypatch.setattr(ray, "init", refuse)
    out = tmp_path / "out.csv"
    out.write_text("filename,label\n")
    with pytest.raises(ValueError, match="cluster auto: cannot be reached"):
        predict(sample_data / "test_videos", out=out, cluster="auto", **QUICK)
    assert out.read_text() == "filename,label\n"


@pytest.mark.parametrize("stop", [None, KeyboardInterrupt])
def test_predict_keeps_scores_if_disconnecting_fails(
    stop, local, sample_data, tmp_path, monkeypatch, caplog
):
    import ray

    videos = sample_data / "test_videos"
    options = {"cluster": local, **QUICK}
    shutdown, add, added = ray.shutdown, Journal.add, []

    def fail(*_):
        raise ConnectionError("the cluster is gone")

    def add_and_stop(journal, *arguments):
        add(journal, *arguments)
        added.append(arguments)
        if stop and len(added) == 2:
            raise stop

    try:
        monkeypatch.setattr(ray, "shutdown", fail)
        monkeypatch.setattr(ray, "kill", fail)
        monkeypatch.setattr(Journal, "add", add_and_stop)
        with pytest.raises(stop) if stop else nullcontext():
            predict(videos, out=tmp_path / "out.csv", details=tmp_path / "details.csv", **options)
    finally:
        shutdown()
    assert (pd.read_csv(tmp_path / "details.csv")["status"] == "ok").sum() == (2 if stop else 6)
    assert "cannot disconnect from the cluster: the cluster is gone" in caplog.text


def test_predict_reports_a_lost_connection(local, sample_data, tmp_path, monkeypatch, capsys):
    from ray.exceptions import RaySystemError

    def fail(_):
        raise RaySystemError("the raylet died")

    monkeypatch.setattr(module.ActorPool, "wait", fail)
    arguments = ["predict", str(sample_data / "test_videos"), "--out", str(tmp_path / "out.csv")]
    arguments += ["--weights", "logistic_regression", "--frames", "2"]
    assert main([*arguments, "--cluster", local]) == 2
    assert "the connection was lost" in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "out.csv")) == 6


def test_require_cluster_says_how_to_install_ray(sample_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    source = str(sample_data / "train_sample_videos")
    for command in (["predict", source], ["extract", source], ["evaluate", source]):
        out = [] if command[0] == "evaluate" else ["--out", str(tmp_path / "out.csv")]
        assert main([*command, *out, "--cluster", "local"]) == 2
        assert "pip install 'dfdetect[cluster]'" in capsys.readouterr().err


def test_predict_does_not_import_ray_without_a_cluster(sample_data, tmp_path):
    code = (
        "import sys; from dfdetect.cli import main; "
        "options = ['--weights', 'logistic_regression', '--frames', '1']; "
        "status = main(['predict', sys.argv[1], '--out', sys.argv[2], *options]); "
        "import dfdetect.runtime.ray_cluster, dfdetect.data.extract, dfdetect.evaluation.evaluate; "
        "sys.exit(status or 'ray' in sys.modules)"
    )
    videos = sample_data / "test_videos" / "ehtdtkmmli.mp4"
    subprocess.run([sys.executable, "-c", code, videos, tmp_path / "out.csv"], check=True)
    requirements = [line for line in requires("dfdetect") if line.startswith("ray")]
    assert requirements
    assert all("extra ==" in line for line in requirements)


def test_cluster_yaml_is_valid_for_ray():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(files("dfdetect.runtime").joinpath("cluster.yaml").read_text())
    validate_config(prepare_config(config))
    assert "--disable-usage-stats" in config["head_start_ray_commands"][-1]
    assert len(config["provider"]["worker_ips"]) == config["max_workers"]
