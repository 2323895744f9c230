"""What runs inside a container: standard library, Python 3.8, what the application has."""
