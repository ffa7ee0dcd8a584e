"""Bringing shards from the Hub: each by the engine that suits it, each in bounded memory.

`course` decides which reads one passing stream can serve, `line` keeps that stream alive through
faults by means of child processes (`process`, `child`, `ranges`), `buffer` holds what came before
it was wanted, `proof` compares what was given with what the tree names, `shards` is what a worker
reads from.
"""
