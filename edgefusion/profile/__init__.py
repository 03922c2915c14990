"""Where the time of a picture goes, layer by layer, in any engine: the verb `profile`."""
