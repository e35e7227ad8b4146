"""The network: a torchvision CNN, soft attention and LSTM decoders."""
