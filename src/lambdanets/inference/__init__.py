"""Networks that only infer: batch norms folded, layers fused."""
