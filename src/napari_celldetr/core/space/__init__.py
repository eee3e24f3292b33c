"""What lies near what among a million embeddings: projection, selection, density, likeness."""
