"""Benches: questions that only a measurement answers, one per file."""
