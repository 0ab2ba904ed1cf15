"""Estimate the memory and time that tuning a model takes on this machine."""
