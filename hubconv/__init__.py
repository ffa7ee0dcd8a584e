"""hubconv turns a checkpoint on the Hugging Face Hub into an NVFP4 checkpoint on the Hub.

The way of the data is the order of the rooms: `steps/plan` reads headers and decides everything,
`work` makes one output shard, `steps/publish` shows the finished checkpoint in one commit.
"""

__version__ = "0.1.0"
