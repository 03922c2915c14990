"""A part for Qualcomm's NPU: the float graph in a form it takes, quantised, compiled, and run as it will ship."""
