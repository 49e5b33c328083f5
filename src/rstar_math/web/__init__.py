"""What the API server and the viewer share."""
