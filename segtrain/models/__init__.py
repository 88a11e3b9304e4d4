"""Networks that take uint8 images of any size and normalise them inside."""
