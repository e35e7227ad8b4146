"""Models on the Hugging Face Hub (extra hub).

download.py    hf://owner/name@revision -> a folder in the cache
sharing.py     a checkpoint folder -> the hub, its card with metadata

Of a repository, the files of a checkpoint alone are fetched: JSON, plain tensors, ONNX graphs and
the card. Nothing in them is code, and nothing of a hub is executed.
"""
