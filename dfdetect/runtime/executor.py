"""Apply one function to many items, such as videos, on CPU cores, GPUs or a Ray cluster."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain, islice
from queue import Empty, Queue
from threading import Event, Lock, Thread
from typing import NoReturn, TypeAlias, TypeVar

import cv2
import torch

from dfdetect.errors import DfdetectError
from dfdetect.runtime.device import available_cores, choose_device, other_gpus
from dfdetect.runtime.ray_cluster import connected, map_on_cluster
from dfdetect.video.isolated import DecoderPool

# Maximum number of threads. More threads would take too much memory.
MAX_WORKERS = 16

Item = TypeVar("Item")
Result = TypeVar("Result")
Worker: TypeAlias = Callable[[Item], Result]
MakeWorker: TypeAlias = Callable[[torch.device, DecoderPool], Worker[Item, Result]]


class Executor:
    """Applies a function to several items at once, and yields the results in order of the items.

    The function is called a worker. Each device needs its own worker, so the method `map` takes a
    function `make_worker` that returns the worker for a device.

    On the CPU, each thread works on one item and uses one core. If there are fewer items or threads
    than cores, the decoders of the videos share all cores.

    When the `with` block ends, unfinished items are cancelled, and the processes that decode videos
    are ended. This also happens after Ctrl-C.

    Args:
        device: The device on which the workers run networks: `auto` (all GPUs, or the CPU if no GPU
            works), `cpu`, `cuda` (all GPUs) or `cuda:N`. On a cluster, each process looks for this
            device on its own machine.
        cluster: Address of a Ray cluster, such as `192.168.0.1:6379`, or None to use only this
            machine. `dfdetect.runtime.ray_cluster.map_on_cluster` describes all addresses.
        workers: Number of threads. None means one thread per core, but at most 16. With `cluster`,
            this number is ignored.

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
        # Threads work in parallel, because OpenCV and torch release Python's global interpreter
        # lock, and because videos are decoded in other processes.
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
        """Cancel unfinished items, end the decoder processes, and disconnect from the cluster."""
        self._open.close()

    def map(
        self,
        make_worker: MakeWorker[Item, Result],
        items: Iterable[Item],
        *,
        on_lost: Callable[[Item, str], Result] | None = None,
        failed: Callable[[Result], bool] = lambda result: False,
        on_done: Callable[[Item, Result], None] | None = None,
    ) -> Generator[tuple[Item, Result], None, None]:
        """Apply a worker to each item, and yield each item with its result, in order.

        Only a limited number of items is read ahead of the results.

        Args:
            make_worker: A function that takes a device and a pool of decoders, and returns a
                worker: the function that is applied to the items. `make_worker` is called once for
                each GPU in use, or once for the CPU. Several threads may call a worker at the same
                time. On a cluster, each process calls `make_worker` once. There, `make_worker`, the
                items and the results must be picklable.
            items: The items. The caller's thread reads them one by one. Without a cluster, a single
                item uses all cores of this machine.
            on_lost: A function that returns the result of an item that a cluster has given up,
                because several processes were lost while they worked on it. Its arguments are the
                item and a message. If it is None, DfdetectError is raised for such an item.
            failed: A function that returns whether a result is a failure. If an item fails on a GPU
                other than the first, it is tried again on the first GPU. On a cluster, this
                function is not called, and no failed item is tried again.
            on_done: A function that is called with each item and its result as soon as the result
                is ready, in any order. Without a cluster, several threads call this function. On a
                cluster, the caller's thread calls it.

        Raises:
            Exception: Any exception that the worker raises for an item. The exception is raised in
                place of the item's result.
        """
        if self.cluster is None:
            pairs = self._map_on_threads(make_worker, items, failed, on_done)
        else:
            start = partial(_make_in_process, make_worker, self.device)
            pairs = map_on_cluster(start, items, self.cluster, on_lost or _raise_lost, on_done)
        self._open.callback(pairs.close)
        return pairs

    def _map_on_threads(
        self,
        make_worker: MakeWorker[Item, Result],
        items: Iterable[Item],
        failed: Callable[[Result], bool],
        on_done: Callable[[Item, Result], None] | None,
    ) -> Generator[tuple[Item, Result], None, None]:
        items = iter(items)
        head = list(islice(items, max(2, self.workers)))
        alone = len(head) < 2
        # The number of cores for each decoder stays the same during the run. It may change which
        # frames of a damaged video can be decoded, so it must not depend on which other videos are
        # decoded at the same moment.
        cores_each = available_cores() // max(1, min(len(head), self.workers))

        def apply(item: Item, function: Worker[Item, Result]) -> tuple[Item, Result]:
            result = function(item)
            if function is not functions[0] and failed(result):
                result = functions[0](item)
            if on_done is not None:
                on_done(item, result)
            return item, result

        # The pool of decoders is closed before the pool of threads. Otherwise, a thread that waits
        # for a frame would never end.
        with (
            _threads(self.workers, one_core_each=not alone) as threads,
            DecoderPool(max(1, cores_each)) as decoders,
        ):
            devices = self.devices[: len(head)] if alone else self.devices
            functions = [make_worker(device, decoders) for device in devices]
            futures = (
                threads.submit(apply, item, functions[number % len(functions)])
                for number, item in enumerate(chain(head, items))
            )
            yield from _results(futures, self.workers)


def map_at_once(
    function: Worker[Item, Result], items: Iterable[Item], count: int
) -> Generator[Result, None, None]:
    """Apply a function to `count` items at once, and yield the results in order of the items.

    If `count` is 1, the caller's thread works on the items. Otherwise, `count` other threads work
    on them. At most `count` items are read in advance.

    Raises:
        Exception: Any exception that the function raises for an item. The exception is raised in
            place of the item's result.

    Example:
        >>> list(map_at_once(abs, [-1, 2, -3], 2))
        [1, 2, 3]
    """
    if count == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(count) as threads:
        yield from _results((threads.submit(function, item) for item in items), count)


def _results(futures: Iterable[Future[Result]], ahead: int) -> Generator[Result, None, None]:
    """Yield the results of futures in order.

    At most `ahead` futures are read in advance.
    """
    pending: deque[Future[Result]] = deque()
    for future in futures:
        pending.append(future)
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _raise_lost(item: object, message: str) -> NoReturn:
    raise DfdetectError(f"{item}: {message}")


def _make_in_process(
    make_worker: MakeWorker[Item, Result], device: str
) -> Callable[[Item], Result]:
    """Return the worker that a process of a cluster applies to items.

    `device` is the name of a device on the machine of this process.
    """
    return make_worker(choose_device(device), DecoderPool(threads=1))


class _CoreCounts:
    """Restores how many cores torch and OpenCV use. These numbers hold for the whole process.

    Several pools of threads may be open at once. When the last of them is closed, the numbers from
    before the first of them are set again.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._pools = 0
        self._before = 0, 0

    def __enter__(self) -> None:
        with self._lock:
            if self._pools == 0:
                self._before = torch.get_num_threads(), cv2.getNumThreads()
            self._pools += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._pools -= 1
            if self._pools == 0:
                torch.set_num_threads(self._before[0])
                cv2.setNumThreads(self._before[1])


_CORE_COUNTS = _CoreCounts()


@contextmanager
def _threads(count: int, one_core_each: bool) -> Iterator[ThreadPoolExecutor]:
    """Provide a pool of `count` threads for a `with` block.

    With `one_core_each`, torch and OpenCV use only one core in each thread. At the end of the
    block, tasks that no thread has started are cancelled.
    """
    with _CORE_COUNTS:
        initializer = _compute_on_one_core if one_core_each else None
        threads = ThreadPoolExecutor(count, initializer=initializer)
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)


def _compute_on_one_core() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def prefetch(items: Iterable[Item], count: int) -> Generator[Item, None, None]:
    """Yield items, while another thread reads up to `count` items in advance.

    If reading an item raises an exception, the generator raises this exception in place of the
    item.

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
        except BaseException as error:  # the generator raises it again, in the caller's thread
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
        while thread.is_alive():  # the thread may be waiting for space in the queue
            with suppress(Empty):
                waiting.get_nowait()
            thread.join(0.01)
