"""Units on threads of this process: numbers are crunched and bytes moved outside Python's lock."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from hubconv.engines.ending import ended_well, saving
from hubconv.engines.stop import Stop
from hubconv.journal import Ending
from hubconv.progress import Progress
from hubconv.records import UnitRecord
from hubconv.steps.shards import Unit
from hubconv.work import Bench, work


def run_units(
    bench: Bench, units: Sequence[Unit], workers: int, progress: Progress, stop: Stop,
    ending: Ending | None = None,
) -> list[UnitRecord]:  # fmt: skip
    """Make units and note each in the journal; one worker runs in the calling thread.

    Args:
        bench: What workers have at hand.
        units: What is to be made, in order.
        workers: Units made at the same time.
        progress: Told of every start and end.
        stop: Asked before every unit.
        ending: How the run ends with these units, where it does and they are all made.

    Returns:
        A record for each unit.

    Raises:
        HubconvError: The first failure; or the reason to stop. Finished units are in the journal.
    """
    finished: list[str] = []

    def one(unit: Unit) -> UnitRecord | None:
        if stop.begun_enough:
            return None
        progress.unit_started(unit.shard)
        try:
            record = work(bench, unit)
            bench.staging.add(record)
            finished.append(unit.shard)
        except BaseException:
            stop.fail()
            raise
        progress.unit_finished(unit.shard, record.size, record.seconds)
        return record

    with saving(bench.staging, progress, lambda: finished):
        made = [one(unit) for unit in units] if workers == 1 else _pooled(one, units, workers)
    ended_well(bench.staging, stop, ending, finished, is_done=None not in made)
    return [record for record in made if record is not None]


def _pooled(
    one: Callable[[Unit], UnitRecord | None], units: Sequence[Unit], workers: int
) -> list[UnitRecord | None]:
    with ThreadPoolExecutor(workers, thread_name_prefix="unit") as pool:
        futures: list[Future[UnitRecord | None]] = [pool.submit(one, unit) for unit in units]
        waiting = set(futures)
        while waiting:
            # A timeout keeps the main thread awake for signals.
            done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
    return [future.result() for future in futures]
