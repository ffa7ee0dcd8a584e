"""Which targets are out of date, and what to do about it.

watch.toml → wishes → look (one or two requests a target) → matrix for many machines, or run here

Nothing is kept anywhere: a target's own hubconv.json says which commit of the source it was made
from, and its staging branch how far an unfinished plan is.
"""

from hubconv.watch.event import Event, read_event
from hubconv.watch.listing import WatchList, Wish, read_list
from hubconv.watch.look import DUE, Look, State, in_order, look
from hubconv.watch.running import Ended, Running, run, worst

__all__ = [
    "DUE", "Ended", "Event", "Look", "Running", "State", "WatchList", "Wish", "in_order", "look",
    "read_event", "read_list", "run", "worst",
]  # fmt: skip
