"""Making students good: losses, consistency distillation, and the training loop they share."""
