"""The command line. It may import all other rooms."""
