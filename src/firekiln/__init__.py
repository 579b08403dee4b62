"""firekiln: a Dockerfile goes in, a microVM that boots and runs it comes out."""
