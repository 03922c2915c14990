"""The verb bench: how long a picture takes, cold and warm, what it needs, and how the board was while it did."""
