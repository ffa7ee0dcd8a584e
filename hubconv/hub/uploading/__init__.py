"""How the bytes of a finished shard reach the Hub while the next one is converted.

    xet stream      no local file: `streamed.XetSink` writes into a child process
    xet file        a local file, sent by a child process: after two broken streams
    LFS             a local file, sent in the background: whole, or in parts by a child process

Nothing here commits: the journal does, once the Hub has the bytes.
"""
