"""The demonstration: miniature checkpoints, made here, go the whole way without a network."""
