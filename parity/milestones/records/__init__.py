"""The record of a sign-off: its evidence, how it is written, checked and compared."""
