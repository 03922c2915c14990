"""The small families trained by this project itself, with their weights and model cards."""
