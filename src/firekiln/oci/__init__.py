"""What OCI and Docker define: references, platforms, configs, manifests."""
