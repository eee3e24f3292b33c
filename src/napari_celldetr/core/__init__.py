"""The words and rules everything else shares: numpy and the standard library only."""
