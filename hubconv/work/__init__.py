"""The work on one output shard: fetch, convert, write. What every engine runs."""

from hubconv.work.unit import Bench, work

__all__ = ["Bench", "work"]
