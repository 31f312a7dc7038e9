"""What Hydra and anemoi-training find: search path, resolvers, schemas, checks, scalers, callbacks."""
