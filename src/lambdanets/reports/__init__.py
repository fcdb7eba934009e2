"""Reports on runs: comparisons with statistics, claims, published numbers, figures, HTML pages, archives."""
