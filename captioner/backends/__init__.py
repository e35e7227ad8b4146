"""Backends that run the network for decoding: ONNX Runtime, torch, and ensembles of them."""
