"""What shards on their way take of a machine's disk, for whoever plans as for whoever sends."""

from typing import Final

XET_CACHE_BYTES: Final = 64 * 1024 * 1024
"""What Xet keeps of uploads; of shards nothing lies there."""

SHARDS_ON_DISK: Final = 2
"""By plain LFS a shard is sent when it is whole: one is written while another goes up, and a third
would only wait for the line."""


def out_bytes(largest_shard: int, room: int, *, streams: bool) -> int:
    """Disk that output shards take at a time, in bytes; where there is little room, that of one.

    Args:
        largest_shard: Bytes of the largest output shard.
        room: What there is for them.
        streams: They go up while they are made, by Xet.
    """
    if streams:
        return XET_CACHE_BYTES
    return largest_shard * (SHARDS_ON_DISK if SHARDS_ON_DISK * largest_shard <= room else 1)
