"""Cryptographic primitives: thin wrappers over `cryptography` that fix one choice each."""
