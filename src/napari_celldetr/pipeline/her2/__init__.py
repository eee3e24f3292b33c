"""HER2 on IHC slides: membranes measured cell by cell, coverage, and the score."""
