"""Events in clips: the labels of a model, and the conversion of time steps to a timeline."""
