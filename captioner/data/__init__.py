"""Load captions and their images as batches."""
