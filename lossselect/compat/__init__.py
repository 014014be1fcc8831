"""Access to private parts of other libraries, in one module for each library."""
