"""What runs the network under the search: ONNX Runtime, torch, or several models at once."""
