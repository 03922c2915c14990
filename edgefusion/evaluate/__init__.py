"""Picture quality: how near pictures are to references, and whether they show what was asked for."""
