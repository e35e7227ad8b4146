"""Models on the Hugging Face Hub (extra hub).

download.py    hf://owner/name@revision -> a folder in the cache
sharing.py     a checkpoint folder -> the hub, with metadata in its card

Only the files of a checkpoint are downloaded: JSON, plain tensors, ONNX graphs and the card. None
of them contains code, and nothing from the hub is executed.
"""
