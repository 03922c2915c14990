"""EdgeFusion: from a Stable Diffusion checkpoint to a two-step picture on a small machine."""

__version__ = "0.1.0"
