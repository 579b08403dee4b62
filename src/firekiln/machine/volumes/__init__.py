"""What a machine mounts besides its image: volumes, folders of the host, and Docker's words for them."""
