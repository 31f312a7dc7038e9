"""Everything that knows anemoi's names: keys of its configs, its checkpoints and metadata, its trainer, its errors."""
