"""The demo: a page on which a photo gets its sentence, and each word shows where the model looked.

    limits.py    what a visitor may ask of the server
    answers.py   a photo and options -> a caption, as data for the page and for the API
    card.py      a checkpoint's model card -> a line of facts
    blocks.py    build_app: the page, its events and its API, as Gradio blocks
    corrections.py  better captions from visitors, kept if the server says so and they agree
    visits.py    whose photos lie in which files, and when they go
    server.py    serving: the page on a port, with everything a visitor could abuse shut

Nothing of it but `Captioner` writes captions. The page needs no network: what it loads comes from
its own server.
"""

import os

# Gradio reads it when it is imported, which happens below this package only: no version check, no
# telemetry.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
