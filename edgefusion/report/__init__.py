"""Records → tables for people. A figure in prose comes from a file under profiles/, or it does not stand there."""
