"""Mutants: the port with one known mistake in it, planted from outside and taken out again.

One file per component; ``registry.ALL`` lists them. The port itself knows nothing of them.
"""
