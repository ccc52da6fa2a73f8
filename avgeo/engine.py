"""Run one function over many items: in this process, on a process pool, or on Ray; results come in the items' order."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")
Failed = Callable[[Item, str], Result]
ENGINES = ("local", "process", "ray")
MEMORY_BYTES = 6 << 30
"""What one isolated worker may take: a damaged file must not take the machine."""


class EngineError(ValueError):
    """An unknown engine, or one whose package is not installed."""


def default_workers() -> int:
    """The cores this process may use, at most 16."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def check_engine(engine: str) -> None:
    """Raise `EngineError` for an engine that is unknown or not installed."""
    if engine not in ENGINES:
        raise EngineError(f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)}")
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise EngineError("engine 'ray' needs the extra: pip install 'avgeo[scale]'")


def map_items(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    engine: str = "process",
    workers: int | None = None,
    description: str = "",
    unit: str = "item",
    sizes: Sequence[int] | None = None,
    failed: Failed[Item, Result] | None = None,
    time_limit_s: float | None = None,
) -> Iterator[Result]:
    """`function(item)` for every item, lazily and in order, with a progress bar.

    `function` and the items must pickle. `workers` counts processes (default: this machine's cores); with "process",
    one worker or one item runs in this process, unless `failed` is given. An exception in a worker is raised here.
    `sizes` says how many units of the progress bar each item stands for; such items are large and go to the workers one
    at a time.

    With `failed`, an item that kills its worker, or keeps it busy beyond `time_limit_s`, costs that worker alone:
    `failed(item, why)` stands in for its result. Processes and Ray then isolate every item; "local" cannot.
    """
    check_engine(engine)
    workers = workers or default_workers()
    counts = [1] * len(items) if sizes is None else sizes
    chunk = max(1, min(16, len(items) // (4 * workers))) if sizes is None else 1
    if engine == "ray":
        results = _by_ray(function, items, workers, failed, time_limit_s)
    elif engine == "process" and failed is not None:
        results = _isolated(function, items, workers, failed, time_limit_s)
    elif engine == "local" or workers == 1 or len(items) < 2:
        results = map(function, items)
    else:
        results = _pooled(function, items, workers, chunk)
    with tqdm(total=sum(counts), desc=description, unit=unit, disable=None) as bar:
        for result, count in zip(results, counts, strict=True):
            bar.update(count)
            yield result


def _pooled(function: Callable[[Item], Result], items: Sequence[Item], workers: int, chunk: int) -> Iterator[Result]:
    # spawn, not fork: torch and PyAV hold threads and locks that a forked child would inherit half-way
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            yield from pool.map(function, items, chunksize=chunk)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _isolated(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    failed: Failed[Item, Result],
    limit_s: float | None,
) -> Iterator[Result]:
    """On processes, each of which may be lost."""
    from pebble import ProcessExpired, ProcessPool

    context: Any = multiprocessing.get_context("spawn")
    with ProcessPool(workers, context=context, initializer=_start_isolated_worker) as pool:
        try:
            results = pool.map(function, items, timeout=limit_s).result()
            for item in items:
                try:
                    yield next(results)
                except TimeoutError:
                    yield failed(item, f"takes longer than {limit_s:g} s")
                except ProcessExpired as error:
                    yield failed(item, f"ended its process ({_ending(error.exitcode)})")
        finally:
            pool.stop()  # nothing is waited for: some library's threads may not want to end


def _ending(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-exit_code).name
    return f"exit status {exit_code}"


def _start_isolated_worker() -> None:
    _start_worker()
    with contextlib.suppress(ImportError, ValueError, OSError):  # no such limits on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))


def _start_worker() -> None:
    """Workers share the cores: one thread each; they go without a word on Ctrl-C, and when their parent is killed."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # an orphan would go on writing the files that the next run writes too


def _by_ray(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    failed: Failed[Item, Result] | None,
    limit_s: float | None,
) -> Iterator[Result]:
    """On Ray. Few tasks wait at a time, so that a limit counts from about when a task begins."""
    ray = _ray(workers)
    slow, lost = ray.exceptions.GetTimeoutError, (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
    remote = ray.remote(_plain(function)).options(max_retries=0 if failed else 3)  # 3: Ray's default
    ahead = 4 * workers
    pending = deque(remote.remote(item) for item in items[:ahead])
    for number, item in enumerate(items):
        reference = pending.popleft()
        try:
            result = ray.get(reference, timeout=None if limit_s is None else 2 * limit_s)
        except (slow, *lost) as error:
            if failed is None:
                raise
            if isinstance(error, slow):
                ray.cancel(reference, force=True)
                result = failed(item, f"takes longer than {limit_s:g} s")
            else:
                result = failed(item, f"ended its process ({type(error).__name__})")
        if number + ahead < len(items):
            pending.append(remote.remote(items[number + ahead]))
        yield result


def _plain(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """Ray takes functions, and no other callables such as partial ones."""

    def call(item: Item) -> Result:
        return function(item)

    return call


def _ray(workers: int) -> Any:
    """Ray, started here or joined where `RAY_ADDRESS` says."""
    import ray  # pyright: ignore[reportMissingImports]  # the extra `scale`

    elsewhere = ray.is_initialized() or "RAY_ADDRESS" in os.environ
    ray.init(ignore_reinit_error=True, num_cpus=None if elsewhere else workers, log_to_driver=False)
    return ray
