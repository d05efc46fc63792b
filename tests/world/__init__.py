"""A Ganeti in memory that can do whatever happens in practice, and how it is explored."""
