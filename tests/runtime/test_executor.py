import threading

import cv2
import pytest
import torch

from dfdetect.runtime.executor import ordered_thread_map, prefetch


def test_results_come_in_order_from_several_threads():
    both = threading.Barrier(2, timeout=30)

    def meet(number):
        both.wait()  # passes only if two threads are here at a time
        return number, threading.current_thread().name

    results = list(ordered_thread_map(meet, range(6), workers=2))
    assert [number for number, _ in results] == list(range(6))
    assert len({name for _, name in results}) == 2


def test_few_items_are_drawn_ahead():
    drawn = []

    def items():
        for number in range(100):
            drawn.append(number)
            yield number

    for done, _ in enumerate(ordered_thread_map(abs, items(), workers=2), start=1):
        assert len(drawn) - done <= 2


def test_what_is_raised_is_raised_in_its_place_and_ends_the_rest():
    started = []

    def work(number):
        started.append(number)
        if number == 3:
            raise KeyboardInterrupt
        return number

    results = ordered_thread_map(work, range(1000), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert len(started) < 20


def test_each_thread_computes_on_one_core_and_the_rest_as_before():
    before = torch.get_num_threads(), cv2.getNumThreads()
    inside = set(ordered_thread_map(lambda _: torch.get_num_threads(), range(4), workers=2))
    assert inside == {1}
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


def test_items_are_drawn_ahead_in_a_thread_of_their_own():
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
def test_what_drawing_raises_is_raised_after_the_items_before(kind):
    def items():
        yield 1
        raise kind("broken off")

    results = prefetch(items(), 4)
    assert next(results) == 1
    with pytest.raises(kind, match="broken off"):
        next(results)


def test_what_is_no_longer_wanted_is_not_drawn():
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
