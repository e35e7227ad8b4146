"""Clips -> timelines of captions: frames, the shots that they make up, a caption of each.

`Captioner.caption_video` and `captioner caption clip.mp4` are what most use. What reads clips,
PyAV, comes with the extra `video`; it is imported when the first clip is read.
"""
