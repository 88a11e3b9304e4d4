"""What is measured of a model: scores, and the images, pixels and labels that explain them."""
