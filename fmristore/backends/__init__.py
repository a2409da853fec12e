"""Opening of stores by path in other libraries: one module for each of them."""
