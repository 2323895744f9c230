"""The logic behind this repository's modules and plugins: a package per noun."""
