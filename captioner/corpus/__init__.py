"""Caption a corpus of any size on Ray, on one machine or a cluster, each block exactly once.

    storage.py    paths and URLs of any file system that fsspec supports: read, list, write whole
    blocks.py     Block: a unit of work, captioned by one worker
    inputs.py     a folder, a list, shards or Parquet files -> blocks
    reading.py    a block -> its images
    output.py     the output folder: its plan, its parts, the manifest of finished blocks, the
        summary
    worker.py     Worker: holds a model, captions blocks
    cluster.py    workers on Ray: scheduling of blocks, and recovery when a worker dies
    run.py        caption_corpus: the whole run

A block's part is named after the block's number and is written atomically. So a block that two
workers caption, because one was presumed dead, still appears in the output only once.
"""
