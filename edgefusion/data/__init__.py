"""The data stage: pictures and captions → chosen, cropped, re-captioned shards → latents and text states, cached."""
