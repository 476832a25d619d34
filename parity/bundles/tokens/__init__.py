"""Judging an engine by its tokens and log-probabilities alone."""
