"""Properties of what strangers write: image files, annotations, folders, overrides, run folders."""
