"""Devices, processes and progress."""
