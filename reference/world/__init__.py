"""A small world of coloured shapes: pictures and clips of it, and questions with one right answer."""
