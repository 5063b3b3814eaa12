"""Speed of the engines that a bundle's variants run in."""
