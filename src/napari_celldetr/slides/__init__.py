"""Slides: files of any vendor behind one read(region, mpp). No torch here."""
