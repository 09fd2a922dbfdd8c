"""Schedulers for diffusers."""
