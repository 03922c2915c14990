"""Boards: what the machine a verb runs on tells of itself, and whether it is fit for what is asked."""
