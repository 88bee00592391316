"""Cryptographic primitives: thin wrappers that fix one choice each, over `cryptography`; over TenSEAL in `homomorphic`."""
