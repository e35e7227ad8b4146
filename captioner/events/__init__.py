"""Events in clips: what a model says of them, and how its steps become a timeline."""
