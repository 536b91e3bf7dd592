"""What kind needs and no registry of images gives here: an engine, kind itself, an image of a node."""
