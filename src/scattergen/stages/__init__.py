"""The stages of a fit: their options, and each of them made or found."""
