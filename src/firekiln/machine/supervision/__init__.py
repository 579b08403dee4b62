"""The process that owns a running machine: its loop, its clients, its log, and what is remembered of it."""
