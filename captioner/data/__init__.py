"""Captions and their images -> batches."""
