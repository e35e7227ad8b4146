"""Training: a config in, a trained checkpoint folder out."""
