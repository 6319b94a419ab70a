"""The plug-ins that come with the balancer; ``LOAD name`` imports the module of that name."""
