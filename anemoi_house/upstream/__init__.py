"""Everything that knows anemoi's names: configs, checkpoints, metadata, its errors."""
