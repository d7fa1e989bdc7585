"""Recordings of worn sensors: from a text table to windows of equal rate and length. The same code for training and for the server."""
