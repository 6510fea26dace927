"""Counts, matching, protocols, significance, calibration."""
