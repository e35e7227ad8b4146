"""What runs the network under the search: ONNX Runtime, or torch."""
