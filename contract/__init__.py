"""What every other folder agrees on: net names, tensor shapes, manifests, errors. Standard library only."""
