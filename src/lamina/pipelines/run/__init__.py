"""A plan carried out on this machine: images, clones, services, scripts, artifacts."""
