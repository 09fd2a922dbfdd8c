"""Adapters make models and loops of other libraries ours. Each module needs its library, which this package does not import."""
