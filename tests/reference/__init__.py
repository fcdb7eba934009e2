"""Slow float64 definitions, written from the papers, that share no code with the product."""
