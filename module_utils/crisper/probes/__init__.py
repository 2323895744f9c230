"""Programs that run inside containers of the application, and what they share."""
