"""Images: the store, what is read into it and written from it.  See `images.store`."""
