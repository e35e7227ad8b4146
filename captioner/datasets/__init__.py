"""Data sets that captioner can bring by itself: COCO, by download, and drawn shapes."""
