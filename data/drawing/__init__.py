"""Draw the pictures of `toco demo`: textures, kinds of objects, scenes, and the data set made of them."""
