//! From options to an OCI runtime specification.
