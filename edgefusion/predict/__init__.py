"""The verb predict: what a picture would take on a board that one does not have, by a roofline fitted to profiles."""
