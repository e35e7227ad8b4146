"""Tokens, scores and reports: how good captions are, in the field's own numbers."""
