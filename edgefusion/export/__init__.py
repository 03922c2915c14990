"""From a checkpoint to a bundle: trace, parity, golden, manifest. Needs torch; what it makes does not."""
