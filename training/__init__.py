"""Everything from a folder of images to a bundle. Imports ``handlers``; never the other way round."""
