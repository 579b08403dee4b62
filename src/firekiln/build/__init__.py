"""The build engine: plan, cache keys, solver, operations, contexts, progress events."""
