"""Robustness of captions to damaged photos and adversarial attacks."""
