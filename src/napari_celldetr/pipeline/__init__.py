"""Headless joins of slides and networks."""
