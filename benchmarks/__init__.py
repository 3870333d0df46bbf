"""Measurements, made by commands that anybody can repeat."""
