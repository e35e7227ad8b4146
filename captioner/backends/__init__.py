"""Backends that run the network for the search: ONNX Runtime, torch, and ensembles of them."""
