"""Processes side by side: each waits before every call until it is told to go on."""

import threading

from hubconv.errors import ConflictError, HubconvError, TemporaryError
from proof.memory_hub import KILL_BEFORE, Killed

PATIENCE_S = 20


class Runner:
    """A process on a thread of its own that moves one call at a time.

    Attributes:
        call: The call it waits to make: name, and whether it changes anything.
        has_ended: Whether it will make none any more.
        error: What ended it, if it did not end well.
    """

    def __init__(self, world):
        self._world = world
        self._turn, self._arrived = threading.Semaphore(0), threading.Semaphore(0)
        self._fault = None
        self.call = None
        self.has_ended = False
        self.error = None
        threading.Thread(target=self._run, daemon=True).start()
        self._wait()

    def step(self, fault=None):
        """Let it make one call, and do what it does before the next one."""
        self._fault = fault
        self._turn.release()
        self._wait()

    def kill(self):
        self.step(KILL_BEFORE)

    def _wait(self):
        if not self._arrived.acquire(timeout=PATIENCE_S):
            raise TimeoutError(f"a process does not come back from {self.call}")

    def _gate(self, name, writes):
        self.call = (name, writes)
        self._arrived.release()
        if not self._turn.acquire(timeout=PATIENCE_S):
            raise Killed
        return self._fault

    def _run(self):
        try:
            self._world.process(self._gate)
        except Killed:
            pass
        except (ConflictError, TemporaryError) as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - whatever it is, it should not have come
            self.error = error
            self._world.violations.append(f"a run ended with {type(error).__name__}: {error}")
        finally:
            self.has_ended = True
            self._arrived.release()


def end_alone(world):
    """A last process on its own, which must find everything right or make it so."""
    try:
        world.process(lambda _name, _writes: None)
    except HubconvError as error:
        world.violations.append(f"the last run ended with {type(error).__name__}: {error}")
    if not world.violations:
        world.finish(visible=False)


def race(world, random, fault_rate=0.0):
    """Two processes to their ends, the next call always that of a random one."""
    from proof.world import faults_at

    world.is_alone = False
    runners = [Runner(world), Runner(world)]
    while waiting := [runner for runner in runners if not runner.has_ended]:
        runner = random.choice(waiting)
        fault = random.choice(faults_at(runner.call)) if random.random() < fault_rate else None
        # They come in bursts: by single calls alone neither would ever be far ahead.
        for _ in range(random.choice((1, 1, 2, 5, 12))):
            if not runner.has_ended:
                runner.step(fault)
            fault = None
    end_alone(world)
