"""Mutants: copies of the port with one known mistake each, planted from outside and taken out again.

There is one file per component; ``registry.ALL`` lists all mutants. The port contains no code for them.
"""
