"""How guest code runs: the interface, and the platforms that implement it.  The only package that imports _native."""
