"""Annotation files of any format -> records: images with their reference captions."""
