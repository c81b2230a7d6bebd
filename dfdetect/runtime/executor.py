"""Apply one function to many items: on the cores of the CPU, on all GPUs, or on a Ray cluster."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain, islice
from queue import Empty, Queue
from threading import Event, Thread
from typing import NoReturn, TypeAlias, TypeVar

import cv2
import torch

from dfdetect.errors import DfdetectError
from dfdetect.runtime.device import available_cores, choose_device, other_gpus
from dfdetect.runtime.ray_cluster import connected, map_on_cluster
from dfdetect.video.isolated import DecoderPool

# Maximum number of threads; each of them takes memory.
MAX_WORKERS = 16

Item = TypeVar("Item")
Result = TypeVar("Result")
Worker: TypeAlias = Callable[[Item], Result]
MakeWorker: TypeAlias = Callable[[torch.device, DecoderPool], Worker[Item, Result]]


class Executor:
    """Applies a function to several items at a time, and yields the results in order.

    On the CPU, each thread computes on one core. Several videos at a time keep all cores busy,
    while a single video would leave most of them waiting. Decoders, OpenCV and torch release
    Python's global lock.

    Leaving the `with` block cancels the running items and ends the decoders. Ctrl-C therefore does
    not wait for videos.

    Args:
        device: Where the functions compute: `auto`, `cpu`, `cuda` (all GPUs) or `cuda:N`. On a
            cluster, each process chooses for itself.
        cluster: Address of a Ray cluster, as in `dfdetect.runtime.ray_cluster`; None for this
            machine.
        workers: Number of threads; None for one per core, 16 at most. Has no effect on a cluster.

    Raises:
        DfdetectError: The device does not work, or the cluster cannot be reached.

    Example:
        >>> with Executor("cpu") as executor:
        ...     list(executor.map(lambda device, decoders: abs, [-1, 2, -3]))
        [(-1, 1), (2, 2), (-3, 3)]
    """

    def __init__(
        self,
        device: str | torch.device = "auto",
        cluster: str | None = None,
        workers: int | None = None,
    ):
        self.device = str(device)
        self.cluster = cluster
        self.workers = min(available_cores(), MAX_WORKERS) if workers is None else workers
        self._open = ExitStack()
        if cluster is None:
            first = choose_device(self.device)
            self.devices = [first, *other_gpus(first)]
        else:
            self._open.enter_context(connected(cluster))

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the running items, end the decoders, and disconnect from the cluster."""
        self._open.close()

    def map(
        self,
        make_worker: MakeWorker[Item, Result],
        items: Iterable[Item],
        *,
        on_lost: Callable[[Item, str], Result] | None = None,
        failed: Callable[[Result], bool] = lambda result: False,
        on_done: Callable[[Item, Result], None] = lambda item, result: None,
    ) -> Generator[tuple[Item, Result], None, None]:
        """Yield each item with its result, in the order of the items.

        Few items are drawn ahead of the results, so that memory does not grow with their number.

        Args:
            make_worker: Called with a device and a pool of decoders; returns the function to apply.
                It is called once per GPU, once for all cores of the CPU, or once per process of a
                cluster. Several threads use the function at a time. For a cluster, `make_worker`,
                the items and the results must be picklable.
            items: Drawn by the caller's thread. A single item gets all cores of this machine.
            on_lost: Called with an item and a message if every process of the cluster that worked
                on the item was lost; returns the result of the item. By default, DfdetectError is
                raised.
            failed: Returns whether a result is a failure. An item that fails on another GPU than
                the first is tried again on the first.
            on_done: Called with each item and its result as soon as the result is ready: on this
                machine by several threads and in any order, on a cluster by the caller's thread.

        Raises:
            Exception: Whatever the function raises, instead of its result.
        """
        if self.cluster is None:
            pairs = self._map_on_threads(make_worker, items, failed, on_done)
        else:
            start = partial(_make_in_process, make_worker, self.device)
            pairs = _map_on_cluster(start, items, self.cluster, on_lost or _raise_lost, on_done)
        self._open.callback(pairs.close)
        return pairs

    def _map_on_threads(
        self,
        make_worker: MakeWorker[Item, Result],
        items: Iterable[Item],
        failed: Callable[[Result], bool],
        on_done: Callable[[Item, Result], None],
    ) -> Generator[tuple[Item, Result], None, None]:
        items = iter(items)
        head = list(islice(items, 2))
        alone = len(head) < 2
        count = 1 if alone else self.workers

        def apply(item: Item, function: Worker[Item, Result]) -> Result:
            result = function(item)
            if function is not functions[0] and failed(result):
                result = functions[0](item)
            on_done(item, result)
            return result

        pending: deque[tuple[Item, Future[Result]]] = deque()
        # The decoders end first, because a thread that waits for a frame would not end.
        with (
            _threads(count, one_core_each=not alone) as threads,
            DecoderPool(threads=0 if alone else 1) as decoders,
        ):
            devices = self.devices[: len(head)] if alone else self.devices
            functions = [make_worker(device, decoders) for device in devices]
            for number, item in enumerate(chain(head, items)):
                function = functions[number % len(functions)]
                pending.append((item, threads.submit(apply, item, function)))
                if len(pending) > count:
                    yield _result(*pending.popleft())
            while pending:
                yield _result(*pending.popleft())


def _map_on_cluster(
    start: Callable[[], Worker[Item, Result]],
    items: Iterable[Item],
    address: str,
    on_lost: Callable[[Item, str], Result],
    on_done: Callable[[Item, Result], None],
) -> Generator[tuple[Item, Result], None, None]:
    for item, result in map_on_cluster(start, items, address, on_lost):
        on_done(item, result)
        yield item, result


def _result(item: Item, future: Future[Result]) -> tuple[Item, Result]:
    return item, future.result()


def _raise_lost(item: object, message: str) -> NoReturn:
    raise DfdetectError(f"{item}: {message}")


def _make_in_process(
    make_worker: MakeWorker[Item, Result], device: str
) -> Callable[[Item], Result]:
    """Make the function in a process of a cluster, which works on one item at a time."""
    return make_worker(choose_device(device), DecoderPool(threads=1))


@contextmanager
def _threads(count: int, one_core_each: bool) -> Iterator[ThreadPoolExecutor]:
    """Run threads for the duration of a block; at its end, items that wait are dropped."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    threads = ThreadPoolExecutor(count, initializer=_compute_on_one_core if one_core_each else None)
    try:
        yield threads
    finally:
        try:
            threads.shutdown(cancel_futures=True)
        finally:
            torch.set_num_threads(before[0])
            cv2.setNumThreads(before[1])


def _compute_on_one_core() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def prefetch(items: Iterable[Item], count: int) -> Generator[Item, None, None]:
    """Yield items that another thread draws in advance, at most `count` of them.

    If drawing an item raises an exception, the exception is raised instead of the item.

    Example:
        >>> list(prefetch(range(3), 2))
        [0, 1, 2]
    """
    waiting: Queue[tuple[Item] | BaseException | None] = Queue(count)
    unwanted = Event()

    def draw() -> None:
        try:
            for item in items:
                waiting.put((item,))
                if unwanted.is_set():
                    return
        except BaseException as error:  # any kind: the caller's thread raises it again
            waiting.put(error)
        waiting.put(None)

    thread = Thread(target=draw, daemon=True)
    thread.start()
    try:
        while (drawn := waiting.get()) is not None:
            if isinstance(drawn, BaseException):
                raise drawn
            yield drawn[0]
    finally:
        unwanted.set()
        while thread.is_alive():  # it may be waiting for space in the queue
            with suppress(Empty):
                waiting.get_nowait()
            thread.join(0.01)
