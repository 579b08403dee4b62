"""The store: blobs, index, images, locks, garbage collection."""
