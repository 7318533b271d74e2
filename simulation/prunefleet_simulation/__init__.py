"""A whole fleet on one machine: coordinator, trainer and devices over loopback gRPC, and the report that says it."""
