"""From a bundle and a prompt to a picture: numpy, tokenizers, Pillow and one engine; no torch."""
