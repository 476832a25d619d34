"""The stages of a run, one file each, and the loop that judges them."""
