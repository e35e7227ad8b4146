"""The demo: a web page that captions photos and shows where the model looked for each word.

    limits.py       limits on visitors' requests
    answers.py      captions as data for the page and the API
    card.py         facts for the page from a checkpoint's model card
    blocks.py       build_app: the page, its events and its API, as Gradio blocks
    corrections.py  better captions from visitors, saved with their consent
    visits.py       which visitor looks at which upload, and when to delete it
    server.py       serving: the page on a port, hardened against abuse

The page works offline: everything it loads comes from its own server.
"""

import os

# Disables Gradio's version check and telemetry. Gradio reads it on import, which happens only in
# this package.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
