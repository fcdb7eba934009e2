"""What networks cost and what runs gave: counts, closed forms, published numbers, tables, plots."""
