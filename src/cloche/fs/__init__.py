"""File systems and descriptors that are not files: implementations of the traits of cloche.vfs."""
