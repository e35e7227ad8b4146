"""Train a model from a config into a checkpoint folder."""
