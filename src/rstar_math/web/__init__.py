"""Parts that the API server and the viewer share."""
