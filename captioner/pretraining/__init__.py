"""Training encoders of one's own, on labelled images or on images alone: `captioner pretrain`."""
