"""A small world of coloured shapes: pictures, clips, and questions with one right answer each."""
