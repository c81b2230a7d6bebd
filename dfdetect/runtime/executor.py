"""Work on many things at a time, and on one while the next is made ready."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Queue
from threading import Event, Thread
from typing import TypeVar

import cv2
import torch

from dfdetect.runtime.device import available_cores

MOST_WORKERS = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_thread_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Apply a function to each item, in several threads, and give the results in order.

    Each thread computes on one core: many videos side by side keep all cores busy, while one at a
    time leaves them waiting for each other. Decoders, OpenCV and torch let go of Python's lock. Few
    items are drawn ahead of what is given out, so that memory does not grow with their number.

    Args:
        function: Safe to be called by several threads; what it raises is raised here.
        items: Drawn by the caller's thread.
        workers: Number of threads; None for one a core, 16 at most, as each takes memory.

    Example:
        >>> list(ordered_thread_map(abs, [-1, 2, -3], workers=2))
        [1, 2, 3]
    """
    workers = min(available_cores(), MOST_WORKERS) if workers is None else workers
    pending: deque[Future[Result]] = deque()
    threads = torch.get_num_threads(), cv2.getNumThreads()
    pool = ThreadPoolExecutor(workers, initializer=_compute_on_one_core)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        try:
            pool.shutdown(cancel_futures=True)
        finally:
            torch.set_num_threads(threads[0])
            cv2.setNumThreads(threads[1])


def prefetch(items: Iterable[Item], count: int) -> Iterator[Item]:
    """Draw items in a thread of their own, at most `count` of them before they are wanted.

    What drawing them raises is raised here, in its place.

    Example:
        >>> list(prefetch(range(3), 2))
        [0, 1, 2]
    """
    waiting: Queue[tuple[Item | None, BaseException | None] | None] = Queue(count)
    unwanted = Event()

    def draw() -> None:
        try:
            for item in items:
                waiting.put((item, None))
                if unwanted.is_set():
                    return
        except BaseException as error:  # whatever it is, it belongs to the caller's thread
            waiting.put((None, error))
        waiting.put(None)

    thread = Thread(target=draw, daemon=True)
    thread.start()
    try:
        for item, error in iter(waiting.get, None):
            if error is not None:
                raise error
            yield item
    finally:
        unwanted.set()
        while thread.is_alive():  # it may wait for room
            with suppress(Empty):
                waiting.get_nowait()
            thread.join(0.01)


def _compute_on_one_core() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
