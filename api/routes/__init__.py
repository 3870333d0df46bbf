"""The facade's routes, one module for each kind of resource."""
