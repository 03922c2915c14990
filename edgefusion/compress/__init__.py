"""Teacher U-Net → student U-Net: block removal with weight inheritance."""
