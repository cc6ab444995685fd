"""Drawing pictures of textured objects: fields, outlines, textures, kinds of objects, grounds, scenes."""
