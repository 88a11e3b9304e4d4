"""Pixel losses, reductions and criteria."""
