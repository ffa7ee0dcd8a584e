"""`hubconv demo`: the whole main job on this machine, without account or network.

It starts the embedded Hub, uploads a miniature DeepSeek-V4 FP8 repository to it, runs the real bot
as its own process, and verifies what it published.
"""
