"""How the values of an engine are laid out, and how they are brought into the layout of the seams."""
