"""Apply one function to many items, such as videos, on all machines of a Ray cluster.

Ray (Moritz et al. 2018) is optional (`pip install 'dfdetect[cluster]'`). Each machine runs one
process per core, or a few processes per GPU if the machine has GPUs. Each process makes the
function once, and so loads a detector only once. Ray sends items and results between the processes,
restarts crashed processes, and notices when machines join or leave.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from secrets import token_hex
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import torch

from dfdetect import __version__
from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.runtime.device import available_cores

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

LOCAL = "local"
LOOPBACKS = ("127.0.0.1", "localhost")
# Ray reads from these environment variables whether a cluster needs a token, and the token.
AUTH_MODE, AUTH_TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
# Seconds within which a cluster must answer. Ray itself would try to connect for minutes.
TIMEOUT = 10.0
# Processes may get this number of items before the result of the oldest item is yielded: AHEAD, or
# AHEAD_EACH times the number of processes if this is more. The number is large, so that the work on
# other items continues while one item is slow.
AHEAD, AHEAD_EACH = 256, 4
# Maximum number of processes per GPU. It is limited, because each process needs GPU memory.
SHARE_GPU = 8
# An item is given up after this number of processes were lost while they worked on the item.
ATTEMPTS = 3
# Seconds between two checks for new machines.
NODE_POLL_SECONDS = 2.0

LOGGER = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_on_cluster(
    start: Callable[[], Callable[[Item], Result]],
    items: Iterable[Item],
    address: str,
    on_lost: Callable[[Item, str], Result],
    on_done: Callable[[Item, Result], None] | None = None,
) -> Generator[tuple[Item, Result], None, None]:
    """Apply a function to items on all machines of a cluster, and yield each item with its result.

    The results come in the order of the items. If an item is the path of a file, all machines must
    see the file under this path. If the process or machine that works on an item is lost, another
    process gets the item.

    Args:
        start: A function without arguments. It returns the function that is applied to the items.
            Each process calls `start` once. `start`, the items and the results must be picklable.
        items: The items. The next item is read only when a process is free.
        address: The cluster's address, such as `192.168.0.1:6379`. On a machine of the cluster, the
            address may be `auto`. `ray.init` describes all addresses. In addition, `local` starts a
            cluster of this machine alone, which ends with the call. A process that is already
            connected to a cluster uses that cluster, and stays connected.
        on_lost: A function that returns the result of an item that was given up. Its arguments are
            the item and a message. An item is given up after `ATTEMPTS` processes were lost while
            they worked on the item.
        on_done: A function that is called with each item and its result as soon as the result is
            ready, in any order. The caller's thread calls it. If it is None, results stay on the
            machines of the cluster until they are yielded.

    Raises:
        DfdetectError: Ray is not installed, no machine of the cluster offers a CPU, or a machine
            has another version of dfdetect.
        ArgumentError: The cluster cannot be reached.
        ConnectionError: The connection to the cluster was lost.
        Exception: Any exception that the applied function raises.

    Example:
        >>> list(map_on_cluster(lambda: abs, [-1, 2], "local", on_lost=lambda item, why: None))
        [(-1, 1), (2, 2)]
    """
    with connected(address):
        import ray

        pool = ActorPool(start)
        try:
            yield from _in_order(pool, iter(items), on_lost, on_done)
        except ray.exceptions.RayError as error:
            raise ConnectionError(
                f"cluster {address}: the connection was lost ({_first_line(error)}); give the same "
                "command again to continue"
            ) from error
        finally:
            pool.shutdown()


def require_cluster(address: str) -> None:
    """Check that a cluster answers at an address.

    The check takes ten seconds at most. For the addresses `local` and `auto`, the function checks
    only that Ray is installed.

    Raises:
        DfdetectError: Ray is not installed.
        ArgumentError: The address is malformed, or nothing answers there.
    """
    # Without this setting, Ray would send usage statistics over the network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if find_spec("ray") is None:
        raise DfdetectError(
            "a cluster needs Ray: pip install 'dfdetect[cluster]', in a clone '.[cluster]'"
        )
    if address in (LOCAL, "auto"):
        return
    host, port = _host_and_port(address)
    if not host or not port.isdigit():
        raise ArgumentError(f"cluster {address}: not an address; give host:port, auto or {LOCAL}")
    try:
        socket.create_connection((host, int(port)), TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise ArgumentError(f"cluster {address}: nothing answers there ({error})") from error


@dataclass(eq=False)
class _Call:
    """An item to work on, and later its result.

    Attributes:
        item: The item.
        attempts: Number of processes to which the item was given.
        outcome: A function that returns the result; None until the result is ready.
        result: The result, after it was fetched.
        fetched: Whether the result was fetched.
    """

    item: Any
    attempts: int = 0
    outcome: Callable[[], Any] | None = None
    result: Any = None
    fetched: bool = False


def _in_order(
    pool: "ActorPool",
    items: Iterator[Item],
    on_lost: Callable[[Item, str], Result],
    on_done: Callable[[Item, Result], None] | None,
) -> Iterator[tuple[Item, Result]]:
    given: deque[_Call] = deque()  # all calls whose results are not yielded yet, oldest first
    again: deque[_Call] = deque()
    left = map(_Call, items)
    exhausted = False

    def fetch(call: _Call) -> bool:
        """Fetch the result of a call if it is ready, and return whether it was fetched."""
        if call.fetched or call.outcome is None:
            return call.fetched
        try:
            with redirect_stdout(sys.stderr):  # Ray prints messages about lost results
                call.result = call.outcome()
        except pool.ray.exceptions.ObjectLostError:  # the machine with the result was lost
            call.outcome = None
            again.append(call)
            return False
        call.fetched = True
        if on_done is not None:
            on_done(call.item, call.result)
        return True

    while given or not exhausted:
        with redirect_stdout(sys.stderr):  # Ray prints messages about lost processes
            pool.refresh()
            while pool.idle and (again or len(given) < pool.ahead):
                call = again.popleft() if again else next(left, None)
                if call is None:
                    exhausted = True
                    break
                if call.attempts == 0:
                    given.append(call)
                pool.give(call)
            for call in pool.wait():
                if call.attempts < ATTEMPTS:
                    again.append(call)
                else:
                    why = f"{ATTEMPTS} processes were lost while they worked on it"
                    call.outcome = partial(on_lost, call.item, why)
        if on_done is not None:
            for call in given:
                fetch(call)
        while given and fetch(given[0]):
            call = given.popleft()
            yield call.item, call.result


class ActorPool:
    """The actors (processes) of a Ray cluster, and the item that each of them works on."""

    def __init__(self, start: Callable[[], Callable]):
        import ray

        self.ray = ray
        # Actors get this reference inside a list, because Ray would replace a bare reference by its
        # content in each call. From the list, each process fetches the content only once.
        self.start = ray.put(start)
        self.machines: set[str] = set()
        self.idle: list[ActorHandle] = []
        # The actors that are working or starting. The key is a Ray reference that becomes ready
        # when the actor becomes free. The value holds the actor, its call and the reference to
        # the result. For an actor that is starting, the call and the reference are None.
        self.busy: dict[ObjectRef, tuple[ActorHandle, _Call | None, ObjectRef | None]] = {}
        self.refreshed = -NODE_POLL_SECONDS

    @property
    def ahead(self) -> int:
        """Return how many items actors may get before the result of the oldest item is yielded."""
        return max(AHEAD, AHEAD_EACH * (len(self.idle) + len(self.busy)))

    def refresh(self) -> None:
        """Start actors on machines that have joined the cluster since the previous call.

        Raises:
            DfdetectError: No machine offers a CPU.
        """
        if monotonic() - self.refreshed < NODE_POLL_SECONDS:
            return
        self.refreshed = monotonic()
        taken: Counter[str] = Counter()
        for node in sorted(self.ray.nodes(), key=lambda node: node["NodeID"]):
            cores, host = int(node["Resources"].get("CPU", 0)), node["NodeManagerHostname"]
            if node["Alive"] and node["NodeID"] not in self.machines:
                self.machines.add(node["NodeID"])
                self._start_actors(node, range(taken[host], taken[host] + cores))
            taken[host] += cores
        if not self.idle and not self.busy:
            raise DfdetectError("no machine of the cluster offers a CPU: start one, or wait for it")

    def _start_actors(self, node: dict[str, Any], cores: range) -> None:
        """Start the actors of a machine, and ping each actor to learn when it has started."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        gpus = int(node["Resources"].get("GPU", 0))
        sharing = min(SHARE_GPU, max(1, len(cores) // gpus)) if gpus else 0
        options = {
            "num_cpus": 1,
            "num_gpus": 1 / sharing if gpus else 0,
            "max_restarts": -1,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        }
        kind: Any = self.ray.remote(_Actor).options(**options)
        for _ in range(min(len(cores), gpus * sharing) if gpus else len(cores)):
            self._ping(kind.remote(cores))

    def _ping(self, actor: "ActorHandle") -> None:
        # Unlike a call, a ping waits for an actor that is being restarted.
        self.busy[actor.ping.options(max_task_retries=-1).remote()] = actor, None, None

    def give(self, call: _Call) -> None:
        """Give the item of a call to an idle actor, which applies the pool's function to it."""
        actor = self.idle.pop()
        call.attempts += 1
        call_method: Any = actor.call
        ready, result = call_method.options(num_returns=2).remote(
            __version__, [self.start], call.item
        )
        self.busy[ready] = actor, call, result

    def wait(self) -> list[_Call]:
        """Wait until an actor is free or lost, and return the calls of the lost actors.

        An actor is free if it has just started, or has finished its call. The wait takes at most
        `NODE_POLL_SECONDS`. Afterwards, the free actors are in `idle`, and the attribute `outcome`
        of the finished calls is set.
        """
        lost: list[_Call] = []
        if not self.busy:
            return lost
        errors = self.ray.exceptions
        # `_in_order` fetches the results.
        ready, _ = self.ray.wait(list(self.busy), timeout=NODE_POLL_SECONDS, fetch_local=False)
        for reference in ready:
            actor, call, result = self.busy.pop(reference)
            try:
                self.ray.get(reference)
            except (errors.RayActorError, errors.ActorUnschedulableError):
                if call is not None:
                    lost.append(call)
                    self._ping(actor)  # this ping fails only if the whole machine was lost
                continue
            except errors.RayTaskError as error:
                raise error.cause from error
            if call is not None:
                call.outcome = partial(self.ray.get, result)
            self.idle.append(actor)
        return lost

    def shutdown(self) -> None:
        """End all actors, even those that are working."""
        for actor in [*self.idle, *(actor for actor, _, _ in self.busy.values())]:
            with _errors_logged("cannot end an actor"):
                self.ray.kill(actor)


class _Actor:
    """A process of the cluster, which works on one item at a time, on one core.

    Args:
        cores: Indexes of the cores on which the actor may run. If Ray runs several nodes on one
            machine, these are the cores of one node. Otherwise, they are all cores of the machine.
    """

    def __init__(self, cores: range):
        self.function: Callable | None = None
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        if hasattr(os, "sched_setaffinity"):
            allowed = sorted(os.sched_getaffinity(0))
            if own := allowed[cores.start : cores.stop]:
                os.sched_setaffinity(0, own)

    def ping(self) -> None:
        """Do nothing.

        A call of this method returns as soon as the process has started.
        """

    def call(self, version: str, start: list["ObjectRef"], item: Any) -> tuple[None, Any]:
        """Apply a function to an item.

        The first call gets the function by calling `start`, the argument of `map_on_cluster`. All
        later calls use the same function.

        Args:
            version: The caller's version of dfdetect. If this process has another version, the
                first call raises an error.
            start: A list whose only item is Ray's reference to the function `start`.
            item: The item.

        Returns:
            The pair (None, result). Ray stores them as two objects. The caller waits for None, to
            learn that the result is ready without fetching it.
        """
        import ray

        # The constructor does not do this, because Ray would not pass on the errors.
        if self.function is None:
            if version != __version__:
                raise DfdetectError(
                    f"{socket.gethostname()} has dfdetect {__version__}, not {version} as here: "
                    "install the same version on all machines"
                )
            self.function = ray.get(start[0])()
        return None, self.function(item)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster for a `with` block, unless there is already a connection.

    Raises:
        DfdetectError: Ray is not installed.
        ArgumentError: The cluster cannot be reached.
    """
    require_cluster(address)
    alone = address == LOCAL
    if alone or _host_and_port(address)[0] in LOOPBACKS:
        # Without this setting, Ray replaces the loopback address by the machine's outer address,
        # where nothing listens. Ray reads the variable only when Ray is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"address": address}
    if alone:
        options |= {"num_cpus": available_cores(), "include_dashboard": False}
    with _own_token(alone):
        with _own_signals():
            try:
                ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ArgumentError(
                    f"cluster {address}: cannot be reached ({_first_line(error)}); if Ray asks for "
                    "a token, have the same ~/.ray/auth_token on all machines and set "
                    f"{AUTH_MODE}=token"
                ) from error
        try:
            yield
        finally:
            with _errors_logged("cannot disconnect from the cluster"):
                ray.shutdown()


@contextmanager
def _errors_logged(what: str) -> Iterator[None]:
    """Log an error of a `with` block instead of raising it.

    Such a block ends work with Ray. An error raised there could hide an earlier error.
    `what` is the start of the log message, such as "cannot end an actor".
    """
    try:
        yield
    except Exception as error:
        LOGGER.warning("%s: %s", what, error)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _host_and_port(address: str) -> tuple[str, str]:
    """Return host and port of `host:port` or `ray://host:port`.

    A missing part is an empty text.
    """
    host, _, port = address.rpartition("/")[2].rpartition(":")
    return host.strip("[]"), port


@contextmanager
def _own_token(alone: bool) -> Iterator[None]:
    """Restore after a `with` block whether this process uses a token, which Ray may change.

    If `alone` is True, Ray starts a local cluster in the block, and makes the process use a token.
    The cluster gets a token of its own, because Ray would otherwise leave one in the home folder.
    Afterwards, clusters that were started without a token could no longer be used.
    """
    before = os.environ.get(AUTH_MODE)
    own = alone and not {AUTH_MODE, AUTH_TOKEN} & os.environ.keys()
    if own:
        os.environ[AUTH_TOKEN] = token_hex(32)
    try:
        yield
    finally:
        if own:
            del os.environ[AUTH_TOKEN]
        if before is None and os.environ.pop(AUTH_MODE, None) is not None:
            # Ray has no public function that makes it read the variables again.
            with _errors_logged(f"cannot make Ray read {AUTH_MODE} again"):
                raylet: Any = import_module("ray._raylet")
                raylet.Config.initialize("")
                raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restore the signal handlers after a `with` block in which Ray replaces them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
