"""Tests of the test support itself: a simulation is worth what it refuses."""
