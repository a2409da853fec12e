"""One volume or one run: an array of values on a grid."""
