"""Pretraining of encoders, with or without labels: `captioner pretrain`."""
