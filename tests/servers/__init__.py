"""Real servers for the tests: what they are (table), how they come (get), run (process), are cut (proxy)."""
