"""Names that cannot clash with those of another repository; so far the pytest plugin."""
