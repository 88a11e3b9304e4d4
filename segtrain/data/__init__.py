"""Reading data sets, augmenting their samples and feeding them in batches."""
