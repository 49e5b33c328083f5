"""What people look at: the page of a run, the picture of a tree."""
