"""How other libraries open stores by path: one module for each of them."""
