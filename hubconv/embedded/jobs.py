"""Orders for jobs, and how the jobs go."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Course:
    """How a job goes.

    Attributes:
        lines: What it says.
        stage: What it is when it has said that.
        message: What the Hub says of its end.
    """

    lines: Sequence[str] = ()
    stage: str = "COMPLETED"
    message: str | None = None


@dataclass(slots=True)
class Job:
    """An order, as it came in, and what became of it."""

    id: str
    namespace: str
    body: dict[str, Any]
    course: Course
    stage: str = "RUNNING"


@dataclass(slots=True)
class JobBook:
    """Orders for jobs, and how the next ones go."""

    jobs: dict[str, Job] = field(default_factory=dict)
    scheduled: dict[str, Job] = field(default_factory=dict)
    courses: deque[Course] = field(default_factory=deque)
    lock: threading.Lock = field(default_factory=threading.Lock)
