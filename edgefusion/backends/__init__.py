"""Engines, one file each, found by name. The SDK is imported inside the functions, never by importing the file.

An engine has `load` (a graph that is called with arrays), `trace` (the same with its layers counted), and `build` where
its files are made here or on the board. `load` and `trace` take the same parameters in all of them.
"""
