"""Two-dimensional layouts in which points keep their place from stage to stage."""
