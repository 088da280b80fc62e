"""A trained run looked at closely: feature space, retrieval, gains, the report."""
