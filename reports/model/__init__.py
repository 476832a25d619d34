"""The model as a drawing: seams collected into parts, and where each part stands."""
