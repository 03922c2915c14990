"""Stable Diffusion checkpoints as named parts: text encoder, U-Net, decoder, tokenizer, sampler constants."""
