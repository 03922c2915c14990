"""Engines, one file each, found by name. The SDK is imported inside the functions, never by importing the file."""
