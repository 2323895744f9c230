#!/bin/sh
# No package starts a service inside an image.
exit 101
