"""Caption a corpus of any size on Ray: one machine or a cluster, in blocks that are done once.

    storage.py    paths and URLs of any file system that fsspec knows: read, list, write whole
    blocks.py     Block: a piece of the corpus that one worker captions in one go
    inputs.py     a folder, a list, shards or Parquet files -> blocks
    reading.py    a block -> its images
    output.py     the output folder: its plan, its parts, the manifest of finished blocks, the
        summary
    worker.py     Worker: holds a model, captions blocks
    cluster.py    workers on Ray: who captions which block, and what happens when one dies
    run.py        caption_corpus: all of it together

A block's part has the block's number as its name and is written whole or not at all. So a block
that two workers caption, because one was believed dead, still is in the output once.
"""
