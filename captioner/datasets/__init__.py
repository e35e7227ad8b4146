"""Data sets that captioner can prepare: COCO, by download, and drawn shapes."""
