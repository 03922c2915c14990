"""Small numbers: calibration on the two-step sampler itself, int8 and w8a16, how much each layer minds."""
