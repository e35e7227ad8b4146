"""Clips -> timelines of captions: frames, shots, one caption per shot.

The main entry points are `Captioner.caption_video` and `captioner caption clip.mp4`. Clips are read
by PyAV, which comes with the extra `video` and is imported when the first clip is read.
"""
