"""Tables that are larger than the memory: the cache of their features, mapped from files."""
