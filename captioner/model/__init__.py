"""The network: a CNN of torchvision or timm, soft attention and LSTM decoders."""
