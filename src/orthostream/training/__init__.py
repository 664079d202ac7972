"""The trainer: one loop over modules, optimisers and loaders; it names no model and no connection."""
