"""Counting, matching, scoring protocols, significance tests and calibration."""
