"""`tidegate explain`: what would become of a request, told without sending it."""
