"""The engine: reading and writing the chunks of any store, on all cores."""
