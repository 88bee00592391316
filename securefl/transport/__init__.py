"""Between machines: identities of a consortium, and gRPC that moves the frames of the same sessions as a simulation."""
