import threading
import time

import cv2
import pytest
import torch

from dfdetect.runtime import executor as executor_module
from dfdetect.runtime.executor import Executor, map_at_once, prefetch
from dfdetect.video.isolated import CancelledError

# Devices that torch takes for different ones, although all of them are the CPU.
STAND_INS = [torch.device("cpu"), torch.device("cpu", 0), torch.device("cpu", 0)]


def worker_of(function):
    """Return a `make_worker` for a function that needs neither a device nor decoders."""
    return lambda device, decoders: function


def test_map_gives_results_in_order_from_several_threads():
    both = threading.Barrier(2, timeout=30)

    def meet(number):
        both.wait()  # passes only if two threads wait at the same time
        return number, threading.current_thread().name

    with Executor("cpu", workers=2) as executor:
        pairs = list(executor.map(worker_of(meet), range(6)))
    assert [item for item, _ in pairs] == [number for _, (number, _) in pairs] == list(range(6))
    assert len({name for _, (_, name) in pairs}) == 2


def test_map_reads_few_items_ahead():
    drawn = []

    def items():
        for number in range(100):
            drawn.append(number)
            yield number

    with Executor("cpu", workers=2) as executor:
        for done, _ in enumerate(executor.map(worker_of(abs), items()), start=1):
            assert len(drawn) - done <= 2


def test_map_raises_in_place_of_the_result_and_drops_later_items():
    started = []

    def work(number):
        started.append(number)
        if number == 3:
            raise KeyboardInterrupt
        return number

    with Executor("cpu", workers=2) as executor:
        pairs = executor.map(worker_of(work), range(1000))
        assert [next(pairs) for _ in range(3)] == [(0, 0), (1, 1), (2, 2)]
        with pytest.raises(KeyboardInterrupt):
            next(pairs)
    assert len(started) < 20


def test_map_computes_on_one_core_per_thread():
    before = torch.get_num_threads(), cv2.getNumThreads()
    with Executor("cpu", workers=2) as executor:
        pairs = executor.map(worker_of(lambda _: torch.get_num_threads()), range(4))
        assert {count for _, count in pairs} == {1}
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


def test_map_restores_the_cores_if_two_runs_overlap(two_torch_threads):
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        with Executor("cpu", workers=2) as first, Executor("cpu", workers=2) as second:
            runs = [executor.map(worker_of(abs), range(4)) for executor in (first, second)]
            assert [next(run) for run in runs] == [(0, 0), (0, 0)]
            assert [len(list(run)) for run in runs] == [3, 3]  # the first run ends first
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (2, 2)
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize(("items", "threads"), [(1, 4), (2, 2), (4, 1), (6, 1)])
def test_map_divides_cores_among_the_decoders(items, threads, monkeypatch):
    monkeypatch.setattr(executor_module, "available_cores", lambda: 4)
    with Executor("cpu", workers=4) as executor:
        pairs = executor.map(lambda device, decoders: lambda _: decoders.threads, range(items))
        assert [found for _, found in pairs] == [threads] * items


@pytest.mark.parametrize(("items", "cores"), [(1, 2), (3, 1)])
def test_map_computes_on_all_cores_if_there_is_one_item(items, cores, two_torch_threads):
    with Executor("cpu", workers=2) as executor:
        pairs = executor.map(worker_of(lambda _: torch.get_num_threads()), range(items))
        assert {found for _, found in pairs} == {cores}


def test_map_without_items_makes_no_worker():
    with Executor("cpu") as executor:
        assert list(executor.map(lambda *_: pytest.fail("a worker"), [])) == []


def test_map_distributes_items_among_all_gpus():
    with Executor("cpu", workers=2) as executor:
        executor.devices = STAND_INS
        made = []

        def make_worker(device, decoders):
            made.append(device)
            number = len(made)
            return lambda item: number

        pairs = list(executor.map(make_worker, range(6)))
    assert pairs == [(0, 1), (1, 2), (2, 3), (3, 1), (4, 2), (5, 3)]
    assert made == STAND_INS


def test_map_tries_failed_items_again_on_the_first_gpu():
    with Executor("cpu", workers=2) as executor:
        executor.devices = STAND_INS[:2]

        def make_worker(device, decoders):
            return lambda item: None if device == STAND_INS[1] or item == 2 else item

        done = {}
        pairs = executor.map(
            make_worker,
            range(4),
            failed=lambda result: result is None,
            on_done=lambda item, result: done.update({item: result}),
        )
        # An item that fails on the first GPU is not tried again.
        assert list(pairs) == [(0, 0), (1, 1), (2, None), (3, 3)]
    assert done == {0: 0, 1: 1, 2: None, 3: 3}


def test_map_ends_its_decoders_when_it_is_interrupted(real_clip):
    """An interrupted run neither waits for its running videos nor reports them as done."""
    reading, ends, done = threading.Event(), [], []

    def make_worker(device, decoders):
        def read(path):
            try:
                for _ in decoders.read_frames(path, 32):
                    reading.set()
                    time.sleep(0.5)
            except CancelledError:
                ends.append(decoders)
                raise

        return read

    def leave():
        with Executor("cpu", workers=2) as executor:
            for _ in executor.map(make_worker, items(), on_done=lambda *pair: done.append(pair)):
                pytest.fail("done")

    def items():
        yield real_clip
        yield real_clip
        reading.wait(30)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert done == []
    assert all(decoders.busy == decoders.idle == [] for decoders in ends)
    assert ends


def test_executor_refuses_a_device_that_does_not_work():
    with pytest.raises(ValueError, match="unknown device 'abacus'"):
        Executor("abacus")


def test_map_at_once_works_on_several_items_at_once():
    both = threading.Barrier(2, timeout=30)
    before = torch.get_num_threads(), cv2.getNumThreads()

    def meet(number):
        both.wait()  # passes only if two threads wait at the same time
        return number

    results = map_at_once(meet, range(4), 2)
    assert next(results) == 0
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before
    assert list(results) == [1, 2, 3]


def test_map_at_once_works_in_the_callers_thread_on_one_item_at_a_time():
    threads = list(map_at_once(lambda _: threading.current_thread(), range(3), 1))
    assert threads == [threading.current_thread()] * 3


@pytest.mark.parametrize("count", [1, 2])
def test_map_at_once_raises_in_place_of_the_result(count):
    results = map_at_once(lambda number: 1 // number, [1, 0, 1], count)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_prefetch_reads_ahead_in_another_thread():
    drawn = []

    def items():
        for number in range(10):
            drawn.append((number, threading.current_thread()))
            yield number

    for number in prefetch(items(), 2):
        assert drawn[number][0] == number
        assert len(drawn) <= number + 5
    assert len(drawn) == 10
    assert threading.current_thread() not in {thread for _, thread in drawn}


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_prefetch_raises_after_the_items_before_the_error(kind):
    def items():
        yield 1
        raise kind("broken off")

    results = prefetch(items(), 4)
    assert next(results) == 1
    with pytest.raises(kind, match="broken off"):
        next(results)


def test_prefetch_stops_reading_when_it_is_closed():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    results = prefetch(items(), 2)
    next(results)
    results.close()
    assert closed.wait(10)
